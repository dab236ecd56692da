"""Builds the image and runs it as an installation should: `python -m tests.image` (`make image`).

Prints what it saw. Exit codes: 0 all as promised · 1 something is not.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator

from eco2 import __version__
from tests.image.container import Engine
from tests.image.trial import Fact, shape, work

SLIM, LOCAL = "localhost/eco2:slim", "localhost/eco2:local"
AT_ONCE = 110
"""Scans, and so calls in flight: what one worker is sized for (eco2/sizing.py)."""


def build(tag: str, requirements: str) -> tuple[Engine, Fact]:
    """The engine that built it, and how long it took."""
    began = time.monotonic()
    command = ["scripts/build-image", tag, requirements]
    used = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1]
    return Engine(used), Fact(f"{tag}: built by {used}", f"{time.monotonic() - began:.0f} s", True)


async def _demo(engine: Engine) -> Fact:
    """The local model, in a container that has neither a key nor a broker."""
    began = time.monotonic()
    said = await engine.once(LOCAL, "demo", "--once", memory="384m")
    seen = f"{time.monotonic() - began:.1f} s, {len(said.splitlines())} lines"
    return Fact("eco2 demo --once", seen, "✓ done    completed" in said)


async def _all(engine: Engine) -> AsyncIterator[Fact]:
    wanted = {
        ".Config.User": "65532:65532",
        ".Config.Entrypoint": "[eco2]",
        'index .Config.Labels "org.opencontainers.image.version"': __version__,
    }
    for image in (SLIM, LOCAL):
        async for fact in shape(engine, image, wanted):
            yield fact
    yield await _demo(engine)
    async for fact in work(engine, SLIM, AT_ONCE):
        yield fact


async def main() -> int:
    """Prints each fact as soon as it is seen."""
    broken = 0
    engine, slim = await asyncio.to_thread(build, SLIM, "base")
    _, local = await asyncio.to_thread(build, LOCAL, "local")
    for fact in (slim, local):
        show(fact)
    async for fact in _all(engine):
        show(fact)
        broken += not fact.holds
    print("All as promised." if not broken else f"{broken} not as promised.")
    return min(broken, 1)


def show(fact: Fact) -> None:
    print(f"{'ok' if fact.holds else 'NOT OK':<7}{fact.what:<70}{fact.seen}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
