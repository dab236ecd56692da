"""A real Node process that follows a scan with npm's `eventsource`."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients.report import Report, read

SCRIPT = Path(__file__).parent / "node.mjs"


@asynccontextmanager
async def node(base: str, photo: Path) -> AsyncIterator[Callable[[], Awaitable[Report]]]:
    """Starts the scan at the gateway `base`; yields what waits for the next report."""
    process = await asyncio.create_subprocess_exec(
        "node",
        str(SCRIPT),
        base,
        str(photo),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    output = process.stdout
    assert output is not None

    async def report() -> Report:
        line = await output.readline()
        assert line, "Node ended; what it wrote to standard error says why"
        return read(line)

    try:
        yield report
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
