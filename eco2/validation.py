"""Checks pipelines when a process starts, so that a wrong one is refused before its first job.

Guarantees: no pipeline's code runs here; each problem is one sentence that names the pipeline and the stage
and says what to change.
"""

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel

from eco2.pipeline import AnyPipeline, Stage

MAX_NAME = 64
"""Characters of a name. With a prefix of 100 the longest queue name stays below AMQP's 255 bytes."""
PATHS = ("api", "docs", "healthz", "metrics", "readyz")
"""First parts of the gateway's own paths, in the form that a pipeline's name could have."""
EVENTS = ("cancelled", "done", "error", "message", "open", "queued", "retrying", "truncated", "waiting")
"""Names of events that are no stage's: our own, and the three that a browser's EventSource sends itself."""

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{MAX_NAME - 1}}}")
_PATH = re.compile(r"[\w.~-]+(/[\w.~-]+)*", re.ASCII)
_FORM = f"use 1 to {MAX_NAME} of a-z, 0-9 and '-'"


def problems(pipelines: Sequence[AnyPipeline]) -> list[str]:
    """Lists what is wrong with pipelines that one process is to serve; empty if nothing is."""
    found = [problem for pipeline in pipelines for problem in _pipeline(pipeline)]
    for name, count in Counter(str(pipeline.name) for pipeline in pipelines).items():
        if count > 1:
            found.append(
                f"{count} pipelines have the name {name!r}: each name is one route and one queue; "
                "rename one, or name only one in ECO2_PIPELINES"
            )
    return found


def _pipeline(pipeline: AnyPipeline) -> Iterator[str]:
    where = f"pipeline {pipeline.name!r}"
    yield from (f"{where}: {problem}" for problem in (*_interface(pipeline), *_routes(pipeline)))
    stages: object = pipeline.stages
    if not isinstance(stages, tuple | list):
        yield f"{where}: `stages` is a {_kind(stages)}, not a tuple; one stage is written (Stage(…),)"
        return
    if not stages:
        yield f"{where} has no stages: give it at least one Stage(name, run, output)"
    for position, stage in enumerate(stages, start=1):
        if isinstance(stage, Stage):
            yield from (f"{where}, stage {stage.name!r}: {problem}" for problem in _stage(stage))
        else:
            yield f"{where}: `stages` holds a {_kind(stage)} at place {position}, not a Stage(…)"
    yield from (f"{where}: {problem}" for problem in _doubles([s for s in stages if isinstance(s, Stage)]))


def _interface(pipeline: AnyPipeline) -> Iterator[str]:
    if problem := _misnamed(pipeline.name, PATHS, "the gateway serves that path itself"):
        yield f"the name {problem}"
    if not _is_model(pipeline.input):
        yield f"`input` is {_shown(pipeline.input)}, not a class derived from pydantic.BaseModel"
    elif (
        pipeline.parse is None and (model := pipeline.input.model_fields.get("model")) and model.is_required()
    ):
        yield "the input's field `model` never arrives: the gateway takes it for the job's model; rename it"
    if problem := _not_plain(pipeline.result):
        yield f"`result` {problem}"
    if pipeline.parse is not None and (problem := _not_async(pipeline.parse)):
        yield f"`parse` {problem}"
    if pipeline.check is not None and (problem := _not_plain(pipeline.check)):
        yield f"`check` {problem}"


def _routes(pipeline: AnyPipeline) -> Iterator[str]:
    for path, make in pipeline.routes.items():
        if not _PATH.fullmatch(path):
            yield f"the route {path!r} is no relative path: write it like `rules` or `rules/paper`"
        elif re.fullmatch(r"[^/]+/(events|result)", path):
            yield f"the route {path!r} is one of the gateway's own, `{{job}}/events` and `{{job}}/result`"
        if problem := _not_plain(make):
            yield f"the function of the route {path!r} {problem}"


def _stage(stage: Stage[BaseModel]) -> Iterator[str]:
    if problem := _misnamed(stage.name, EVENTS, "events of that name are not a stage's"):
        yield f"the name {problem}"
    if problem := _not_async(stage.run):
        yield f"`run` {problem}"
    if not _is_model(stage.output):
        yield f"`output` is {_shown(stage.output)}, not a class derived from pydantic.BaseModel"


def _doubles(stages: Iterable[Stage[BaseModel]]) -> Iterator[str]:
    named: dict[object, list[str]] = {}
    returned: dict[int, list[Stage[BaseModel]]] = {}
    for stage in stages:
        named.setdefault(stage.name, []).append(stage.name)
        returned.setdefault(id(stage.output), []).append(stage)
    yield from (
        f"{len(names)} stages have the name {name!r}: rename all but one"
        for name, names in named.items()
        if len(names) > 1
    )
    for same in returned.values():
        if len(same) > 1:
            names = ", ".join(repr(stage.name) for stage in same)
            yield (
                f"stages {names} have one output type, {_shown(same[0].output)}: the later output would "
                "replace the earlier; derive a class for each"
            )


def _misnamed(name: object, taken: Sequence[str], why: str) -> str | None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"is not allowed: {_FORM}"
    return f"is taken ({why}): choose another" if name in taken else None


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel


def _not_async(run: object) -> str | None:
    """Says why `await run(value)` cannot work; None if it can, as far as that shows before a call."""
    if not callable(run):
        return f"is a {_kind(run)}, not an async function"
    if isinstance(run, type):
        return f"is the class {run.__name__}: pass an instance whose `__call__` is async"
    for function in _layers(run):
        if inspect.iscoroutinefunction(function) or _says_awaitable(function):
            return _not_for_one(run)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            return f"({_place(run)}) yields: return one value; a stage shows live text with context.emit"
    return f"({_place(run)}) is not async: write `async def`, with asyncio.to_thread for what blocks"


def _not_plain(function: object) -> str | None:
    if not callable(function):
        return f"is a {_kind(function)}, not a function"
    layer = next(_layers(function))
    if inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer):
        return f"({_place(function)}) is async, and its value is never awaited: write `def`"
    return None


def _layers(run: Callable[..., object]) -> Iterator[Callable[..., object]]:
    """Yields the function that a call of `run` reaches, then each function that the one before wraps."""
    seen: set[int] = set()
    layer: object = run
    while callable(layer) and id(layer) not in seen:
        seen.add(id(layer))
        while isinstance(layer, functools.partial):
            layer = layer.func
        yield layer if inspect.isroutine(layer) else type(layer).__call__
        layer = getattr(layer, "__wrapped__", None)


def _says_awaitable(function: Callable[..., object]) -> bool:
    annotation = getattr(function, "__annotations__", {}).get("return", "")
    return bool(re.search(r"\b(Awaitable|Coroutine|Future|Task)\b", str(annotation)))


def _not_for_one(run: Callable[..., object]) -> str | None:
    try:
        signature = inspect.signature(run)
    except (ValueError, TypeError):  # written in C, without one
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        return f"({_place(run)}) cannot be called with one argument ({error}): it gets that one alone"
    return None


def _place(run: Callable[..., object]) -> str:
    layer = next(_layers(run))
    return f"{getattr(layer, '__module__', '?')}.{getattr(layer, '__qualname__', _kind(layer))}"


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(kind: object) -> str:
    return kind.__name__ if isinstance(kind, type) else repr(kind)[:MAX_NAME]
