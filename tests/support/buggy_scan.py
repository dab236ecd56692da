"""The scan with a bug that a test puts there and mends, and a stage that a test can hold."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from eco2.pipeline import Context
from eco2.stages import answer
from eco2.stages import scan as whole
from eco2.stages.request import ScanInput


@dataclass
class _Gate:
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    open: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class _Stage:
    broken: bool = False
    gate: _Gate | None = None


_now = _Stage()


@contextmanager
def bug() -> Iterator[None]:
    """Inside, the stage `answer` of `scan` has a bug, before it calls the model."""
    _now.broken = True
    try:
        yield
    finally:
        _now.broken = False


@contextmanager
def held() -> Iterator[asyncio.Event]:
    """Inside, the stage `answer` of `scan` does not go on; the event is set once it stands there."""
    _now.gate = gate = _Gate()
    try:
        yield gate.arrived
    finally:
        gate.open.set()
        _now.gate = None


async def _answer(context: Context[ScanInput]) -> answer.Answer:
    if _now.broken:
        raise LookupError("a bug that a test put here")
    if _now.gate is not None:
        _now.gate.arrived.set()
        await _now.gate.open.wait()
    return await answer.run(context)


scan = replace(
    whole,
    stages=tuple(replace(stage, run=_answer) if stage.name == "answer" else stage for stage in whole.stages),
)
