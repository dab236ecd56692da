"""Digests, error texts, the cut-off of stalled clients, and metrics."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from pydantic import BaseModel, ValidationError
from starlette.types import Message

from eco2.gateway.body import digest
from eco2.gateway.problem import describe
from eco2.gateway.stream import PIECE, EventStreamResponse
from eco2.pipeline import Form, Upload
from tests.clock import virtual


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
    """An ASGI `send` that takes `takes` messages and then nothing more."""

    def __init__(self, takes: int) -> None:
        self.messages: list[Message] = []
        self._takes = takes

    async def __call__(self, message: Message) -> None:
        if len(self.messages) == self._takes:
            await asyncio.Event().wait()
        self.messages.append(message)


@virtual
async def test_a_client_that_takes_nothing_is_cut_off_and_its_generator_closed() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    sink = Sink(takes=3)
    began = asyncio.get_running_loop().time()
    await EventStreamResponse(frames(), stall=30.0).stream_response(sink)
    assert asyncio.get_running_loop().time() - began == pytest.approx(30.0)
    assert closed.is_set()
    assert [message.get("more_body") for message in sink.messages] == [None, True, True]


@virtual
async def test_a_slow_reader_of_much_is_not_cut_off_and_one_that_stops_at_the_end_is() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        yield b"x" * (9 * PIECE + 1)

    class Slow(Sink):
        async def __call__(self, message: Message) -> None:
            await asyncio.sleep(20)
            await super().__call__(message)

    slow = Slow(takes=99)
    await EventStreamResponse(frames(), stall=30.0).stream_response(slow)
    assert b"".join(message.get("body", b"") for message in slow.messages) == b"x" * (9 * PIECE + 1)
    cut: list[bool] = []
    response = EventStreamResponse(frames(), stall=30.0, on_cut=lambda: cut.append(True))
    await response.stream_response(Sink(takes=11))
    assert cut == [True]


@virtual
async def test_waiting_for_news_is_no_stall() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(3600)
        yield b"x"

    sink = Sink(takes=10)
    await EventStreamResponse(frames(), stall=30.0).stream_response(sink)
    assert [message.get("body") for message in sink.messages] == [None, b"x", b""]
