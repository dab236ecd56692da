"""A worker's resources: opened before its first job, closed after its last, and a start that says why not."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
from pydantic import BaseModel

from eco2 import resources
from eco2.errors import ConfigurationError
from eco2.pipeline import AnyPipeline, Context, Pipeline, Stage
from eco2.resources import open_resources
from eco2.validation import problems


class Text(BaseModel):
    text: str


async def run(context: Context[Text, list[str]]) -> Text:
    return context.input


def pipeline(
    name: str, opener: Callable[[], AbstractAsyncContextManager[list[str]]] | None = None
) -> AnyPipeline:
    return Pipeline(name, Text, (Stage("a", run, Text),), lambda _: {}, resources=opener)


def recorded(
    events: list[str], name: str, opening: BaseException | None = None, closing: BaseException | None = None
) -> Callable[[], AbstractAsyncContextManager[list[str]]]:
    """Resources that record when they are opened and closed, or raise."""

    @asynccontextmanager
    async def opener() -> AsyncIterator[list[str]]:
        if opening is not None:
            raise opening
        events.append(f"open {name}")
        yield events
        events.append(f"close {name}")
        if closing is not None:
            raise closing

    return opener


async def test_they_are_opened_in_order_and_closed_in_reverse_also_after_an_error() -> None:
    events: list[str] = []
    opened = [pipeline("a", recorded(events, "a")), pipeline("b"), pipeline("c", recorded(events, "c"))]

    async def fails() -> None:
        async with open_resources(opened) as found:
            assert dict(found) == {"a": events, "c": events}
            events.append("jobs")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fails()
    assert events == ["open a", "open c", "jobs", "close c", "close a"]


async def test_what_cannot_be_opened_is_said_in_words_and_the_others_are_closed() -> None:
    events: list[str] = []
    refused = recorded(events, "b", opening=OSError("no route to the store"))
    with pytest.raises(ConfigurationError) as raised:
        async with open_resources([pipeline("a", recorded(events, "a")), pipeline("b", refused)]):
            raise AssertionError("it must not start")
    assert events == ["open a", "close a"]
    why = "OSError: no route to the store (unit/test_resources.py:"
    assert str(raised.value).startswith(f"pipeline 'b': its `resources` cannot be opened: {why}")


async def test_a_stray_cancellation_is_an_error_like_any_other() -> None:
    """As of a task that the pipeline's own code has cancelled, and awaits."""
    events: list[str] = []
    stray = asyncio.CancelledError()
    async with open_resources([pipeline("a", recorded(events, "a", closing=stray))]):
        pass
    assert events == ["open a", "close a"]
    with pytest.raises(ConfigurationError, match="CancelledError"):
        async with open_resources([pipeline("a", recorded(events, "a", opening=stray))]):
            raise AssertionError("it must not start")


async def test_who_is_cancelled_while_it_opens_or_closes_ends() -> None:
    @asynccontextmanager
    async def slow(opening: float) -> AsyncIterator[list[str]]:
        await asyncio.sleep(opening)
        yield []
        await asyncio.sleep(60)

    async def use(opening: float) -> None:
        async with open_resources([pipeline("a", partial(slow, opening))]):
            pass

    for seconds in (60.0, 0.0):
        using = asyncio.create_task(use(seconds))
        await asyncio.sleep(0.01)
        using.cancel()
        await asyncio.wait({using}, timeout=5)
        assert using.cancelled()


async def test_what_is_no_context_manager_is_said() -> None:
    for wrong, kind in ((lambda: 5, "int"), (lambda: open_resources, "function")):
        with pytest.raises(ConfigurationError, match=f"returns a {kind}, not an async context manager"):
            async with open_resources([pipeline("a", wrong)]):  # type: ignore[arg-type]
                raise AssertionError("it must not start")


async def test_an_opening_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    @asynccontextmanager
    async def hangs() -> AsyncIterator[list[str]]:
        await asyncio.Event().wait()
        yield []

    monkeypatch.setattr(resources, "OPEN_TIMEOUT", 0.01)
    with pytest.raises(ConfigurationError, match=r"not open after 0\.01 s"):
        async with open_resources([pipeline("a", hangs)]):
            raise AssertionError("it must not start")


async def test_a_closing_that_hangs_or_fails_holds_up_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @asynccontextmanager
    async def hangs() -> AsyncIterator[list[str]]:
        yield []
        await asyncio.Event().wait()

    monkeypatch.setattr(resources, "CLOSE_TIMEOUT", 0.01)
    events: list[str] = []
    fails = recorded(events, "b", closing=OSError("gone"))
    async with open_resources(
        [pipeline("a", recorded(events, "a")), pipeline("b", fails), pipeline("c", hangs)]
    ):
        pass
    assert events == ["open a", "open b", "close b", "close a"]


def test_a_generator_without_its_decorator_is_refused_at_the_start() -> None:
    async def bare() -> AsyncIterator[list[str]]:
        yield []

    (problem,) = problems([pipeline("a", bare)])  # type: ignore[arg-type]
    assert problem.startswith("pipeline 'a': `resources` (")
    assert "decorate an async generator with contextlib.asynccontextmanager" in problem
    assert problems([pipeline("a", recorded([], "a"))]) == []
