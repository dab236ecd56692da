"""Pipelines that misbehave: a bug, a crash of the whole process, more text than anybody takes.

Loaded by `ECO2_PIPELINES=tests.fault.pipelines:bug` and so on; the processes run in the checkout.
"""

import asyncio
import os
import signal

from pydantic import BaseModel

from eco2.pipeline import Context, Pipeline, Stage

FLOOD: dict[str, object] = {"text": "a piece of text " * 250}
"""The input of `flood`: 4 kB."""
PIECES = 2000


class Text(BaseModel):
    text: str = ""


class Nothing(BaseModel):
    """What a stage returns that never gets that far."""


class Much(BaseModel):
    pieces: int


async def _divide(_: Context[Text]) -> Nothing:
    await asyncio.sleep(0)
    raise ZeroDivisionError("a bug of the handler, on purpose")


async def _crash(_: Context[Text]) -> Nothing:
    await asyncio.sleep(0.2)  # so that what it wrote before is confirmed, as it would be with a real one
    os.kill(os.getpid(), signal.SIGKILL)
    return Nothing()


async def _write(context: Context[Text]) -> Much:
    for _ in range(PIECES):
        context.emit(context.input.text)
        await asyncio.sleep(0.002)
    return Much(pieces=PIECES)


bug = Pipeline("bug", Text, (Stage("divide", _divide, Nothing),), lambda _: {})
crash = Pipeline("crash", Text, (Stage("crash", _crash, Nothing),), lambda _: {})
flood = Pipeline("flood", Text, (Stage("write", _write, Much),), lambda _: {})
