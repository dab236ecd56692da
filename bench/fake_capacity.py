"""Measures the share of one core that the fake provider needs for 100 image calls + 100 streamed calls per
second.

A benchmark against a fake is invalid if the fake is the bottleneck. The server runs in a separate process;
this process is the client, on bare sockets. CPU is the server's utime + stime from the kernel over a window
in the steady state, so that other load on the machine does not count.

    python bench/fake_capacity.py [--pairs 100] [--seconds 8] [--loop uvloop|asyncio]
"""

import argparse
import asyncio
import base64
import io
import os
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec
import uvloop
from PIL import Image

from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from eco2.fake.server import serve

LATENCY = CallKind(
    mean=1.5, p99=4.0, completion_tokens=160
)  # seconds; short, so that the steady state comes soon
SETTLE = 4.0  # seconds until as many calls end as begin


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run. `cores`: server CPU seconds per second."""

    cores: float
    seconds: float
    calls: int
    statuses: dict[int, int]
    writes_per_second: float


@dataclass
class Client:
    """Sends open-loop load: calls begin by the clock, whether or not earlier ones have ended."""

    port: int
    idle: list["Connection"] = field(default_factory=list)
    begun: int = 0
    running: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    events: int = 0
    drained: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, body: bytes, job: str) -> None:
        """Sends one request on an idle connection, or on a new one."""
        if not self.idle:
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self.port)
        else:
            connection = self.idle.pop()
        self.begun += 1
        self.running += 1
        self.drained.clear()
        connection.send(body, job)

    def ended(self, connection: "Connection", status: int) -> None:
        """Handles a complete response."""
        self.statuses[status] += 1
        self.running -= 1
        self.idle.append(connection)
        if not self.running:
            self.drained.set()


class Connection(asyncio.Protocol):
    """Parses just enough HTTP to find the end of a response."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seen = b""
        self._length: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it

    def send(self, body: bytes, job: str) -> None:
        """Writes one request."""
        self._seen, self._length = b"", None
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: fake\r\nauthorization: Bearer k\r\n"
            f"x-eco2-job: {job}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.writelines([head.encode(), body])

    def data_received(self, data: bytes) -> None:
        self._client.events += data.count(b"chat.completion.chunk")
        if not self._seen:
            head = data.partition(b"\r\n\r\n")[0]
            self._status = int(head[9:12])
            if b"content-length: " in head:
                self._length = len(head) + 4 + int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        # Of a stream only its end matters; a sized body is kept to be counted.
        self._seen = self._seen + data if self._length is not None else (self._seen + data)[-8:]
        whole = (
            len(self._seen) == self._length
            if self._length is not None
            else self._seen.endswith(b"\r\n0\r\n\r\n")
        )
        if whole:
            self._client.ended(self, self._status)


def bodies() -> tuple[bytes, bytes]:
    """Returns an image call with a data URL of about 60 kB and a streamed call, as the scan sends them."""
    noise = Image.frombytes("RGB", (512, 384), random.Random(0).randbytes(512 * 384 * 3))
    buffer = io.BytesIO()
    noise.resize((160, 120)).resize((512, 384)).save(buffer, "JPEG", quality=85)
    url = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
    names = [f"품목 {index}" for index in range(80)]
    schema = {
        "type": "object",
        "properties": {
            "major": {"type": "string", "enum": names[:8]},
            "tags": {"type": "array", "items": {"type": "string", "enum": names}},
        },
        "required": ["major", "tags"],
        "additionalProperties": False,
    }
    system = {"role": "system", "content": "사진 속 물건을 분리배출 기준으로 분류하세요. " * 60}
    picture = [
        {"type": "text", "text": "이거 어떻게 버려요?"},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    ]
    form: dict[str, object] = {
        "type": "json_schema",
        "json_schema": {"name": "seen", "strict": True, "schema": schema},
    }
    question = "규칙: " + "비우고 헹구고 떼고 눌러서 버린다. " * 30 + "질문: 이거 어떻게 버려요?"
    image_call: dict[str, object] = {
        "model": "gpt-5.1",
        "messages": [system, {"role": "user", "content": picture}],
    }
    text_call: dict[str, object] = {
        "model": "gpt-5.1",
        "messages": [system, {"role": "user", "content": question}],
        "stream": True,
    }
    image_call |= {"response_format": form, "max_completion_tokens": 300}
    text_call |= {"stream_options": {"include_usage": True}, "max_completion_tokens": 400}
    return msgspec.json.encode(image_call), msgspec.json.encode(text_call)


async def load(client: Client, pairs: float, until: Callable[[], bool]) -> None:
    """Sends one image call and one streamed call `pairs` times a second."""
    image_call, text_call = bodies()
    loop = asyncio.get_running_loop()
    began, count = loop.time(), 0
    while not until():
        due = began + count / pairs
        await asyncio.sleep(max(0.0, due - loop.time()))
        await client.call(image_call, f"v{count}")
        await client.call(text_call, f"a{count}")
        count += 1


def cpu_seconds(pid: int) -> float:
    """Returns utime + stime of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(pairs: float, seconds: float, loop_name: str, settle: float = SETTLE) -> Result:
    """Runs the server and the load, and measures `seconds` of the steady state."""
    command = [sys.executable, "-m", "bench.fake_capacity", "--serve", "--loop", loop_name]
    server = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        client = Client(port=int(await server.stdout.readline()))
        loop = asyncio.get_running_loop()
        end = loop.time() + settle + seconds
        async with asyncio.TaskGroup() as group:
            group.create_task(load(client, pairs, lambda: loop.time() >= end))
            await asyncio.sleep(settle)
            before = (cpu_seconds(server.pid), loop.time(), client.begun, client.events)
            await asyncio.sleep(end - loop.time())
            after = (cpu_seconds(server.pid), loop.time(), client.begun, client.events)
        await asyncio.wait_for(client.drained.wait(), 30)
        cpu, took, calls, events = (late - early for early, late in zip(before, after, strict=True))
        return Result(cpu / took, took, int(calls), dict(client.statuses), events / took)
    finally:
        server.terminate()
        await server.wait()


async def run_server() -> None:
    """Runs the server process: prints its port, serves until it is killed."""

    def say(port: int) -> None:
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()

    kinds = {VISION: LATENCY, ANSWER: LATENCY}
    await serve(FakeConfig(rpm=None, tpm=None, kinds=kinds), "127.0.0.1", 0, asyncio.Event(), say)


def main() -> int:
    """Returns exit code 0 if the server stayed within 0.9 of a core and answered everything with 200."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--pairs", type=float, default=100, help="image calls, and streamed calls, per second"
    )
    parser.add_argument("--seconds", type=float, default=8, help="length of the measured window")
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], default="uvloop", help="of the server")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        runner = uvloop.run if options.loop == "uvloop" else asyncio.run
        runner(run_server())
        return 0
    result = uvloop.run(measure(options.pairs, options.seconds, options.loop))
    sys.stdout.write(
        f"{result.calls} calls in {result.seconds:.1f} s ({result.calls / result.seconds:.0f}/s), "
        f"{result.writes_per_second:.0f} events/s, statuses {result.statuses}: "
        f"server CPU {result.cores:.1%} of one core ({options.loop})\n"
    )
    return 0 if result.cores <= 0.9 and set(result.statuses) == {200} else 1


if __name__ == "__main__":
    sys.exit(main())
