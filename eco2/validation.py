"""Checks pipelines when a process starts, so that a wrong one is refused before its first job.

Guarantees: no pipeline's code runs here; each problem is one sentence that names the pipeline, the stage and
the correction.
"""

import functools
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import BaseModel

from eco2.event import MAX_USD
from eco2.pipeline import AnyPipeline, AnyStage, Retry, Stage
from eco2.ports import DELAYS

MAX_NAME = 64
"""Characters of a name. With a prefix of 100 the longest queue name stays below AMQP's 255 bytes."""
MAX_SECONDS = 7 * 86_400
PATHS = ("api", "docs", "healthz", "metrics", "readyz")
"""First parts of the gateway's own paths, in the form that a pipeline's name could have."""
EVENTS = ("cancelled", "done", "error", "message", "open", "queued", "retrying", "truncated", "waiting")
"""Names of events that are no stage's: our own, and the three that a browser's EventSource sends itself."""

_NAME = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{MAX_NAME - 1}}}")
_PATH = re.compile(r"[\w.~-]+(/[\w.~-]+)*", re.ASCII)
_AWAITABLE = re.compile(r"\b(Awaitable|Coroutine|Future|Task)\b")
_FORM = f"use 1 to {MAX_NAME} of a-z, 0-9 and '-'"


def problems(pipelines: Sequence[AnyPipeline]) -> list[str]:
    """Lists the problems of the pipelines that one process is to serve."""
    found = [problem for pipeline in pipelines for problem in pipeline_problems(pipeline)]
    for name, count in Counter(str(pipeline.name) for pipeline in pipelines).items():
        if count > 1:
            found.append(
                f"{count} pipelines have the name {name!r}: each name is one route and one queue; "
                "rename one, or name only one in ECO2_PIPELINES"
            )
    return found


def pipeline_problems(pipeline: AnyPipeline) -> Iterator[str]:
    """Yields the problems of one pipeline and its stages."""
    where = f"pipeline {pipeline.name!r}"
    yield from (
        f"{where}: {problem}" for problem in (*interface_problems(pipeline), *route_problems(pipeline))
    )
    stages: object = pipeline.stages
    if not isinstance(stages, tuple | list):
        yield f"{where}: `stages` is a {type(stages).__name__}, not a tuple; one stage is written (Stage(…),)"
        return
    if not stages:
        yield f"{where} has no stages: give it at least one Stage(name, run, output)"
    for position, stage in enumerate(stages, start=1):
        if isinstance(stage, Stage):
            yield from (f"{where}, stage {stage.name!r}: {problem}" for problem in stage_problems(stage))
        else:
            yield f"{where}: `stages` holds a {type(stage).__name__} at place {position}, not a Stage(…)"
    yield from (f"{where}: {problem}" for problem in duplicates([s for s in stages if isinstance(s, Stage)]))


def interface_problems(pipeline: AnyPipeline) -> Iterator[str]:
    """Yields the problems of the pipeline's name, input and functions."""
    if problem := name_problem(pipeline.name, PATHS, "the gateway serves that path itself"):
        yield f"the name {problem}"
    if not _is_model(pipeline.input):
        yield f"`input` is {shown_type(pipeline.input)}, not a class derived from pydantic.BaseModel"
    elif (
        pipeline.parse is None and (model := pipeline.input.model_fields.get("model")) and model.is_required()
    ):
        yield "the input's field `model` never arrives: the gateway takes it for the job's model; rename it"
    yield from time_problems(max_wait=pipeline.max_wait, timeout=pipeline.timeout)
    if problem := cost_problem(pipeline.max_usd):
        yield f"`max_usd` {problem}"
    if problem := sync_problem(pipeline.result):
        yield f"`result` {problem}"
    if pipeline.result_type is not None and not _is_model(pipeline.result_type):
        yield f"`result_type` is {shown_type(pipeline.result_type)}, not a class derived from BaseModel"
    if pipeline.parse is not None and (problem := async_problem(pipeline.parse)):
        yield f"`parse` {problem}"
    if pipeline.resources is not None and (problem := sync_problem(pipeline.resources)):
        yield f"`resources` {problem}; decorate an async generator with contextlib.asynccontextmanager"
    if pipeline.check is not None and (problem := sync_problem(pipeline.check)):
        yield f"`check` {problem}"


def time_problems(**times: object) -> Iterator[str]:
    """Yields the times, in seconds or None, that no job can have."""
    for name, seconds in times.items():
        if seconds is not None and not (isinstance(seconds, int | float) and 0 < seconds <= MAX_SECONDS):
            yield f"`{name}` is {seconds!r}, not a number of seconds above 0, of at most 7 days"


def cost_problem(usd: object) -> str | None:
    """Describes why no job can have this limit of cost; None if it can, or there is none."""
    if usd is None or (isinstance(usd, int | float) and 0 < usd <= MAX_USD):
        return None
    return f"is {usd!r}, not a number of USD above 0, of at most {MAX_USD:,}"


def route_problems(pipeline: AnyPipeline) -> Iterator[str]:
    """Yields the problems of the pipeline's further documents."""
    for path, make in pipeline.routes.items():
        if not _PATH.fullmatch(path):
            yield f"the route {path!r} is no relative path: write it like `rules` or `rules/paper`"
        elif re.fullmatch(r"[^/]+/(events|result)", path):
            yield f"the route {path!r} is one of the gateway's own, `{{job}}/events` and `{{job}}/result`"
        if problem := sync_problem(make):
            yield f"the function of the route {path!r} {problem}"


def stage_problems(stage: AnyStage) -> Iterator[str]:
    """Yields the problems of one stage."""
    if problem := name_problem(stage.name, EVENTS, "events of that name are not a stage's"):
        yield f"the name {problem}"
    if problem := async_problem(stage.run):
        yield f"`run` {problem}"
    if problem := retry_problem(stage.retry):
        yield f"`retry` {problem}"
    if not _is_model(stage.output):
        yield f"`output` is {shown_type(stage.output)}, not a class derived from pydantic.BaseModel"


def retry_problem(retry: object) -> str | None:
    """Describes why the object is no policy for retries; None if it is one."""
    if not isinstance(retry, Retry):
        return f"is a {type(retry).__name__}, not a Retry(…) or NEVER"
    if retry.attempts < 1:
        return f"has {retry.attempts} attempts: 1 is the least, and means that the stage is never tried again"
    if not retry.delays or not set(retry.delays) <= set(DELAYS):
        return (
            f"has the delays {retry.delays}: use {', '.join(map(str, DELAYS))} s, each of which has a queue"
        )
    return None


def duplicates(stages: Iterable[AnyStage]) -> Iterator[str]:
    """Yields the stages that share a name or an output type."""
    named: dict[object, list[str]] = {}
    returned: dict[int, list[AnyStage]] = {}
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
                f"stages {names} have one output type, {shown_type(same[0].output)}: the later output would "
                "replace the earlier; derive a class for each"
            )


def name_problem(name: object, taken: Sequence[str], why: str) -> str | None:
    """Describes why the name is not allowed, or is among those `taken`; None if it can be used."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"is not allowed: {_FORM}"
    return f"is taken ({why}): choose another" if name in taken else None


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not BaseModel


def async_problem(run: object) -> str | None:
    """Describes why `await run(value)` cannot work; None if no reason can be found before a call."""
    if not callable(run):
        return f"is a {type(run).__name__}, not an async function"
    if isinstance(run, type):
        return f"is the class {run.__name__}: pass an instance whose `__call__` is async"
    for function in layers(run):
        annotation = str(getattr(function, "__annotations__", {}).get("return", ""))
        if inspect.iscoroutinefunction(function) or _AWAITABLE.search(annotation):
            return arity_problem(run)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            return (
                f"({qualified_name(run)}) yields: return one value; a stage shows live text with context.emit"
            )
    return f"({qualified_name(run)}) is not async: write `async def`, with asyncio.to_thread for what blocks"


def sync_problem(function: object) -> str | None:
    """Describes why the object is no function that returns at once; None if it is one."""
    if not callable(function):
        return f"is a {type(function).__name__}, not a function"
    layer = next(layers(function))
    if inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer):
        return f"({qualified_name(function)}) is async, and its value is never awaited: write `def`"
    return None


def layers(run: Callable[..., object]) -> Iterator[Callable[..., object]]:
    """Yields the function that a call of `run` reaches, then each function that the one before wraps."""
    seen: set[int] = set()
    layer: object = run
    while callable(layer) and id(layer) not in seen:
        seen.add(id(layer))
        while isinstance(layer, functools.partial):
            layer = layer.func
        yield layer if inspect.isroutine(layer) else type(layer).__call__
        layer = getattr(layer, "__wrapped__", None)


def arity_problem(run: Callable[..., object]) -> str | None:
    """Describes why the function cannot be called with one argument; None if it can."""
    try:
        signature = inspect.signature(run)
    except (ValueError, TypeError):  # written in C, without one
        return None
    try:
        signature.bind(None)
    except TypeError as error:
        return f"({qualified_name(run)}) cannot be called with one argument ({error}): it gets that one alone"
    return None


def qualified_name(run: Callable[..., object]) -> str:
    """Returns `module.function` of the function that a call of `run` reaches."""
    layer = next(layers(run))
    return f"{getattr(layer, '__module__', '?')}.{getattr(layer, '__qualname__', type(layer).__name__)}"


def shown_type(kind: object) -> str:
    """Returns the name of a class; of anything else its representation, cut."""
    return kind.__name__ if isinstance(kind, type) else repr(kind)[:MAX_NAME]
