"""Pipelines that cannot work are refused when a process starts; those that can are taken."""

import functools
import importlib
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from eco2 import assembly
from eco2.errors import ConfigurationError
from eco2.gateway.app import build
from eco2.gateway.config import GatewayConfig
from eco2.pipeline import AnyPipeline, Context, Pipeline, Retry, Stage, load
from eco2.settings import Settings
from eco2.stages import scan
from eco2.validation import PATHS, problems
from tests.examples.helpdesk import helpdesk


class Text(BaseModel):
    text: str


class Out(BaseModel):
    n: int


class Other(BaseModel):
    n: int


async def good(context: Context[Text]) -> Out:
    return Out(n=1)


def synchronous(context: Context[Text]) -> Out:
    return Out(n=1)


async def generator(context: Context[Text]) -> AsyncIterator[Out]:
    yield Out(n=1)


def one(run: object = good, *, stage: str = "a", name: str = "p", output: object = Out) -> AnyPipeline:
    return Pipeline(name, Text, (Stage(stage, run, output),), lambda _: {})  # type: ignore[arg-type]


async def configured(factor: int, context: Context[Text], *, extra: int = 0) -> Out:
    return Out(n=factor)


def configured_synchronously(factor: int, context: Context[Text]) -> Out:
    return Out(n=factor)


async def three(first: int, second: int, third: int, context: Context[Text]) -> Out:
    return Out(n=first + second + third)


class AsyncCallable:
    async def __call__(self, context: Context[Text]) -> Out:
        return Out(n=1)

    async def method(self, context: Context[Text]) -> Out:
        return Out(n=1)


class SyncCallable:
    def __call__(self, context: Context[Text]) -> Out:
        return Out(n=1)


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that is no coroutine function itself, and returns what the function returns."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def in_a_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def declared(context: Context[Text]) -> Awaitable[Out]:
    return good(context)


@pytest.mark.parametrize(
    "run",
    [
        good,
        functools.partial(configured, 2),
        functools.partial(functools.partial(configured, 2), extra=1),
        AsyncCallable(),
        AsyncCallable().method,
        functools.partial(AsyncCallable()),
        passes_on(good),
        passes_on(passes_on(good)),
        in_a_thread(synchronous),
        declared,
    ],
)
def test_a_stage_that_can_be_awaited_is_taken(run: object) -> None:
    assert problems([one(run)]) == []


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (synchronous, "synchronous) is not async"),
        (lambda context: Out(n=1), "is not async"),
        (functools.partial(configured_synchronously, 2), "configured_synchronously) is not async"),
        (SyncCallable(), "SyncCallable.__call__) is not async"),
        (passes_on(synchronous), "is not async"),
        (passes_on(SyncCallable().__call__), "is not async"),
        (generator, "yields"),
        (passes_on(generator), "yields"),
        (functools.partial(generator), "yields"),
        (AsyncCallable, "is the class AsyncCallable"),
        (AsyncCallable.method, "cannot be called with one argument"),
        (configured, "cannot be called with one argument"),
        (functools.partial(three, 1, 2), "cannot be called with one argument"),
        (None, "is a NoneType"),
        ("good", "is a str"),
    ],
)
def test_a_stage_that_cannot_be_awaited_is_refused_by_name(run: object, reason: str) -> None:
    (problem,) = problems([one(run)])
    assert problem.startswith("pipeline 'p', stage 'a': `run` ")
    assert reason in problem


@pytest.mark.parametrize(
    ("retry", "reason"),
    [
        (Retry(attempts=0), "has 0 attempts"),
        (Retry(delays=()), "has the delays (): use 5, 30, 120 s"),
        (Retry(delays=(5, 7)), "has the delays (5, 7): use 5, 30, 120 s"),  # type: ignore[arg-type]
        (3, "is a int, not a Retry(…) or NEVER"),
        ("never", "is a str, not a Retry(…) or NEVER"),
    ],
)
def test_retries_for_which_there_is_no_queue_are_refused(retry: Any, reason: str) -> None:
    (problem,) = problems([Pipeline("p", Text, (Stage("a", good, Out, retry),), lambda _: {})])
    assert problem.startswith(f"pipeline 'p', stage 'a': `retry` {reason}")


def test_a_result_type_that_is_no_model_is_refused() -> None:
    pipeline = Pipeline("p", Text, (Stage("a", good, Out),), lambda _: {}, result_type=dict)  # type: ignore[arg-type]
    (problem,) = problems([pipeline])
    assert problem == "pipeline 'p': `result_type` is dict, not a class derived from BaseModel"


def test_two_stages_of_one_output_type_are_refused() -> None:
    stages = (Stage("a", good, Out), Stage("b", good, Other), Stage("c", good, Out))
    (problem,) = problems([Pipeline("p", Text, stages, lambda _: {})])
    assert "stages 'a', 'c' have one output type, Out" in problem


def test_two_stages_of_one_name_are_refused() -> None:
    stages = (Stage("a", good, Out), Stage("a", good, Other))
    (problem,) = problems([Pipeline("p", Text, stages, lambda _: {})])
    assert "2 stages have the name 'a'" in problem


@pytest.mark.parametrize(
    ("stages", "reason"),
    [
        ((), "has no stages"),
        ([], "has no stages"),
        (Stage("a", good, Out), "(Stage(…),)"),
        (None, "not a tuple"),
        ((good,), "holds a function at place 1"),
    ],
)
def test_stages_that_are_none_are_refused(stages: Any, reason: str) -> None:
    (problem,) = problems([Pipeline("p", Text, stages, lambda _: {})])
    assert reason in problem


@pytest.mark.parametrize(
    "name",
    [
        *("queued", "done", "waiting", "retrying", "error", "open", "message", "truncated"),
        *("", "Vision", "a.b", "a b", "a\n", "a\nevent: done", "\u212a", "é", "-a", "a_b", "a" * 65, 7, None),
    ],
)
def test_a_stage_name_that_breaks_the_event_stream_is_refused(name: Any) -> None:
    (problem,) = problems([one(stage=name)])
    assert repr(name) in problem
    assert "\n" not in problem


@pytest.mark.parametrize("name", [*PATHS, "", "Scan", "a/b", "a.b", "scan\n", "a b", "ü", "x" * 65, None])
def test_a_pipeline_name_that_is_no_route_or_taken_is_refused(name: Any) -> None:
    (problem,) = problems([one(name=name)])
    assert repr(name) in problem


def test_two_pipelines_of_one_name_are_refused() -> None:
    assert any("2 pipelines have the name 'scan'" in each for each in problems([scan, one(name="scan")]))
    assert problems([scan, helpdesk, one()]) == []


def test_all_problems_are_named_at_once() -> None:
    found = problems([one(synchronous, stage="done"), one(name="api")])
    assert len(found) == 3


@pytest.mark.parametrize("output", [None, dict, list[Out], BaseModel, Out(n=1), "Out"])
def test_an_output_that_is_no_model_is_refused(output: object) -> None:
    (problem,) = problems([one(output=output)])
    assert "`output` is" in problem


async def _asynchronous(*_: object) -> dict[str, object]:
    return {}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"result": _asynchronous}, "is async"),
        ({"result": None}, "`result` is a NoneType"),
        ({"parse": synchronous}, "`parse`"),
        ({"check": _asynchronous}, "`check`"),
        ({"routes": {"words": _asynchronous}}, "is async"),
        ({"routes": {"/words": dict}}, "relative path"),
        ({"routes": {"{id}": dict}}, "relative path"),
        ({"routes": {"x/events": dict}}, "the gateway's own"),
        ({"input": dict}, "`input`"),
    ],
)
def test_a_wrong_part_of_a_pipeline_is_refused(change: dict[str, Any], reason: str) -> None:
    (problem,) = problems([replace(one(), **change)])
    assert reason in problem


def test_an_input_that_never_gets_its_model_is_refused() -> None:
    class Asks(BaseModel):
        model: str

    (problem,) = problems([replace(one(), input=Asks)])
    assert "`model` never arrives" in problem


def test_every_path_of_the_gateway_is_reserved() -> None:
    own = {"p"}
    part: Any = _Anything()
    app = build(
        pipelines=[one()],
        broker=part,
        journal=part,
        metrics=part,
        config=GatewayConfig(models=("local",)),
        stop=part,
        clock=part,
    )
    firsts = {route.path.split("/")[1] for route in app.routes}  # type: ignore[attr-defined]
    assert {first for first in firsts if "." not in first} - own - {""} <= set(PATHS)


class _Anything:
    """Stands in for parts that building the application only stores."""

    def __getattr__(self, name: str) -> Any:
        return _Anything()

    def __call__(self, *args: object, **named: object) -> Any:
        return _Anything()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Writes an importable module."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()

    return write


GOOD = "from tests.examples.helpdesk import helpdesk\nother = 1\n"


@pytest.mark.parametrize(
    ("text", "reference", "reason"),
    [
        (GOOD, "pipes_a:helpdsk", "did you mean pipes_a:helpdesk?"),
        (GOOD, "pipes_a:zzz", "its pipelines: helpdesk"),
        (GOOD, "pipes_a:other", "is a int, not a Pipeline"),
        (GOOD, "pipes_q:helpdesk", "no module pipes_q; did you mean pipes_a?"),
        (GOOD, "pipes_a.deep:helpdesk", "no module pipes_a.deep"),
        (GOOD, "eco2.stagse:scan", "did you mean eco2.stages?"),
        ("import nowhere_at_all", "pipes_a:x", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("from json import nothing_such", "pipes_a:x", "ImportError"),
        ("\n\n1 / 0", "pipes_a:x", "pipes_a.py:3"),
        ("a = = 1", "pipes_a:x", "pipes_a.py:1"),
        ("import sys\nsys.exit('no')", "pipes_a:x", "SystemExit: no"),
    ],
)
def test_a_wrong_import_string_says_what_is_wrong(
    module: Callable[[str, str], None], text: str, reference: str, reason: str
) -> None:
    module("pipes_a", text)
    with pytest.raises(ConfigurationError) as caught:
        load(reference)
    assert reference in str(caught.value)
    assert reason in str(caught.value)


def test_a_process_does_not_start_with_a_wrong_pipeline(
    module: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    module("pipes_b", "from tests.unit.test_validation import one, synchronous\nwrong = one(synchronous)\n")
    with pytest.raises(ConfigurationError, match="pipeline 'p', stage 'a'"):
        assembly.pipelines(Settings(pipelines="pipes_b:wrong"))
    with pytest.raises(ConfigurationError, match="2 pipelines have the name 'scan'"):
        assembly.pipelines(Settings(pipelines="eco2.stages:scan,eco2.stages:scan"))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), 7 * 86_400 + 1, "60"])
@pytest.mark.parametrize("name", ["max_wait", "timeout"])
def test_a_time_that_is_none_is_refused_by_name(name: str, seconds: Any) -> None:
    good_time: Any = 60
    (problem,) = problems([replace(one(), **{name: seconds})])
    assert problem.startswith(f"pipeline 'p': `{name}` is {seconds!r}, not a number of seconds")
    assert problems([replace(one(), **{name: good_time})]) == []


@pytest.mark.parametrize("usd", [0, -1.0, float("nan"), 1_000_001, "1"])
def test_a_cost_that_is_none_is_refused(usd: Any) -> None:
    (problem,) = problems([replace(one(), max_usd=usd)])
    assert problem.startswith(f"pipeline 'p': `max_usd` is {usd!r}, not a number of USD above 0")
    assert problems([replace(one(), max_usd=0.05)]) == []


@pytest.mark.parametrize(
    ("times", "starts"),
    [
        ({"max_wait": 86_400.0}, True),
        ({"max_wait": 3 * 86_400.0}, False),
        ({"timeout": 60.5}, True),
        ({"timeout": 60.0}, False),
    ],
)
def test_times_of_a_pipeline_fit_to_the_settings(
    times: dict[str, Any], starts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembly, "load", lambda _: replace(one(), **times))
    if starts:
        assert assembly.pipelines(Settings())
    else:
        with pytest.raises(ConfigurationError, match="pipeline p: its max_wait and timeout"):
            assembly.pipelines(Settings())
