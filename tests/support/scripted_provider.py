"""A provider that says exactly what a test tells it to, also what no real one and no fake ever does."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

JSON_TYPE = "application/json"
STREAM_TYPE = "text/event-stream"
USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


@asynccontextmanager
async def saying(*bodies: str, content_type: str = JSON_TYPE, status: int = 200) -> AsyncIterator[str]:
    """Its URL. Answers with one body after the other, and with the last one from then on."""
    left = list(bodies)

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split(b":")[1]))
        data = (left.pop(0) if len(left) > 1 else left[0]).encode()
        writer.write(
            f"HTTP/1.1 {status} Said\r\ncontent-type: {content_type}\r\ncontent-length: {len(data)}\r\n"
            "connection: close\r\n\r\n".encode()
            + data
        )
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def completion(finish_reason: str | None = "stop", message: object = None, **more: object) -> str:
    """A whole answer. `message`: its text, or the members of the message; `more`: members beside it."""
    members = message if isinstance(message, dict) else {"content": message}
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", **members}}
    head = {"id": "1", "object": "chat.completion", "created": 1, "model": ""}
    return json.dumps({**head, "choices": [choice], **more})


def piece(finish_reason: str | None = None, /, **delta: object) -> dict[str, object]:
    """One chunk of a stream."""
    choice = {"index": 0, "finish_reason": finish_reason, "delta": delta}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "", "choices": [choice]}


def events(*chunks: dict[str, object]) -> str:
    """The stream of these chunks."""
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
