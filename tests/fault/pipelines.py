"""Pipelines that misbehave or take long: bugs, crashes, much text, many calls, retries; and one without work.

Loaded by `ECO2_PIPELINES=tests.fault.pipelines:bug` and so on; the processes run in the checkout.
"""

import asyncio
import os
import signal
import time

from pydantic import BaseModel

from eco2.errors import RetryableError
from eco2.pipeline import Call, Context, Pipeline, Retry, Stage

FLOOD: dict[str, object] = {"text": "a piece of text " * 250}
"""The input of `flood`: 4 kB."""
PIECES = 2000
TURNS = 20
"""Model calls of `turns`, all in one stage, each of a kind of its own."""
TURNS_AT_ONCE = 3
BRANCHES = 200
"""Branches of `fan`, each with one call of a kind of its own."""
BRANCHES_AT_ONCE = 8


class Text(BaseModel):
    text: str = ""


class Nothing(BaseModel):
    """What a stage returns that has nothing to say, or never gets that far."""


class When(BaseModel):
    until: float
    """Unix time before which it fails."""


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


async def _take_turns(context: Context[Text]) -> Much:
    at_once = asyncio.Semaphore(TURNS_AT_ONCE)

    async def turn(number: int) -> None:
        async with at_once:
            await context.call(Call(f"turn-{number}", "Count.", str(number), str, 20))

    await asyncio.gather(*map(turn, range(TURNS)))
    return Much(pieces=TURNS)


async def _fan_out(context: Context[Text]) -> Much:
    async def branch(number: int) -> str:
        return (
            await context.call(Call(f"branch-{number}", "Count.", str(number), str, 20, stream=True))
        ).value

    return Much(pieces=len(await context.map(range(BRANCHES), branch, limit=BRANCHES_AT_ONCE)))


async def _wait(context: Context[When]) -> Nothing:
    await asyncio.sleep(0)
    if time.time() < context.input.until:
        raise RetryableError("not yet, on purpose")
    return Nothing()


async def _keep(_: Context[Text]) -> Nothing:
    await asyncio.sleep(0)
    return Nothing()


bug = Pipeline("bug", Text, (Stage("divide", _divide, Nothing),), lambda _: {})
crash = Pipeline("crash", Text, (Stage("crash", _crash, Nothing),), lambda _: {})
turns = Pipeline("turns", Text, (Stage("take", _take_turns, Much),), lambda _: {})
fan = Pipeline("fan", Text, (Stage("out", _fan_out, Much),), lambda _: {})
later = Pipeline("later", When, (Stage("wait", _wait, Nothing, Retry(delays=(30,))),), lambda _: {})
note = Pipeline("note", Text, (Stage("keep", _keep, Nothing),), lambda _: {})
flood = Pipeline("flood", Text, (Stage("write", _write, Much),), lambda _: {})
