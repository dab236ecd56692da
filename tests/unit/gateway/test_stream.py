"""The response of an event stream."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import ExitStack

import pytest
from starlette.types import Message

from eco2.gateway.stream import PIECE, EventStreamResponse


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
