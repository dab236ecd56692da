"""Digests, error texts, and the response of an event stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import pytest
from pydantic import BaseModel, ValidationError
from starlette.types import Message

from eco2.gateway.body import digest
from eco2.gateway.problem import describe
from eco2.gateway.stream import PIECE, EventStreamResponse
from eco2.pipeline import Form, Upload


def test_the_digest_is_of_fields_and_bytes_and_not_of_their_order_or_file_names() -> None:
    form = Form({"a": "1", "b": ["물"]}, {"image": Upload("x.jpg", "image/jpeg", b"1")})
    same = Form({"b": ["물"], "a": "1"}, {"image": Upload("y.png", "image/png", b"1")})
    others = [
        Form({"a": 1, "b": ["물"]}, form.files),
        Form(form.fields),
        Form(form.fields, {"image": Upload("x.jpg", "image/jpeg", b"2")}),
        Form(form.fields, {"photo": form.files["image"]}),
    ]
    assert digest("scan", form) == digest("scan", same)
    digests = {digest("scan", form), digest("echo", form), *(digest("scan", other) for other in others)}
    assert len(digests) == 6
    assert digest("scan", Form({"n": 10**30})) != digest("scan", Form({"n": 10**30 + 1}))


def test_a_misfit_is_described_by_field_without_its_value() -> None:
    class Inner(BaseModel):
        size: int

    class Outer(BaseModel):
        items: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"items": [{"size": "secret"}] * 9})
    text = describe(caught.value)
    assert text.startswith("items.0.size: Input should be a valid integer")
    assert text.endswith("; and 4 more")
    assert "secret" not in text


class Sink:
    """An ASGI `send` that fails after `takes` messages, as for a client that is gone."""

    def __init__(self, takes: int) -> None:
        self.messages: list[Message] = []
        self._takes = takes

    async def __call__(self, message: Message) -> None:
        if len(self.messages) == self._takes:
            raise OSError
        self.messages.append(message)


async def test_the_generator_is_closed_however_the_response_ends() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    sink = Sink(takes=3)
    with pytest.raises(OSError):
        await EventStreamResponse(frames(), ExitStack()).stream_response(sink)
    assert closed.is_set()
    assert [message.get("more_body") for message in sink.messages] == [None, True, True]


async def test_much_goes_out_in_pieces() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"x" * (9 * PIECE + 1)

    sink = Sink(takes=99)
    await EventStreamResponse(frames(), ExitStack()).stream_response(sink)
    sizes = [len(message.get("body", b"")) for message in sink.messages[1:]]
    assert sizes == [PIECE] * 9 + [1, 0]
