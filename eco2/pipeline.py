"""The public API for pipelines: the types for running your own stages on this queue.

A pipeline is a name, an input model, an ordered tuple of stages and a function from their outputs to the
result. The engine stores each stage's output in the journal when the stage completes; a job that moves to
another worker resumes after its last completed stage. All that a pipeline needs is importable from here.
"""

import difflib
import importlib
import pkgutil
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pydantic import BaseModel
from typing_extensions import TypeVar as DefaultTypeVar

from eco2.call import (
    Answer,
    Call,
    CallChanged,
    InvalidAnswer,
    Message,
    ModelRefused,
    PaidCallFailed,
    Reply,
    Tool,
    ToolCall,
    UnreadableAnswer,
    Usage,
    Vectors,
    embedding,
)
from eco2.errors import (
    BudgetExceeded,
    ConfigurationError,
    InputRefused,
    InvalidInput,
    PermanentError,
    RateLimited,
    RetryableError,
)
from eco2.job import JSON

__all__ = [
    "JSON",
    "NEVER",
    "BudgetExceeded",
    "Call",
    "CallChanged",
    "Context",
    "Form",
    "InputRefused",
    "InvalidAnswer",
    "InvalidInput",
    "Label",
    "Message",
    "ModelRefused",
    "Outputs",
    "PaidCallFailed",
    "PermanentError",
    "Pipeline",
    "RateLimited",
    "Reply",
    "Retry",
    "RetryableError",
    "Stage",
    "Tool",
    "ToolCall",
    "UnreadableAnswer",
    "Upload",
    "Usage",
    "Vectors",
    "embedding",
    "language_model_required",
    "load",
]


@dataclass(frozen=True, slots=True)
class Label:
    """A class that an image classifier names for a picture, with its score (0..1)."""

    name: str
    score: float


Input = TypeVar("Input", bound=BaseModel)
Input_co = TypeVar("Input_co", bound=BaseModel, covariant=True)
Output = TypeVar("Output", bound=BaseModel)
Item = TypeVar("Item")
Value = TypeVar("Value")
BRANCHES_AT_ONCE = 20
"""Branches of one map that run side by side; as many calls may be paid twice because of a crash."""
Resources = DefaultTypeVar("Resources", default=object)
Resources_co = DefaultTypeVar("Resources_co", covariant=True, default=object)


class Outputs:
    """The outputs of the completed stages, by their type."""

    def __init__(self, values: tuple[BaseModel, ...] = ()) -> None:
        self._by_type = {type(value): value for value in values}

    def get(self, kind: type[Output]) -> Output:
        """Returns the output of the stage that returns `kind`. Raises LookupError if it has not completed."""
        match self._by_type.get(kind):
            case kind() as value:
                return value
        raise LookupError(f"no completed stage has returned {kind.__name__}; look at the order of the stages")

    def add(self, value: BaseModel) -> None:
        """Records the output of a stage that completed."""
        self._by_type[type(value)] = value


class Context(Protocol[Input_co, Resources_co]):
    """The interface of the engine for a running stage. One per stage and run.

    The second type, of `resources`, may be left out: `Context[Message]`, or `Context[Message, Pool]`.
    """

    @property
    def job_id(self) -> str: ...
    @property
    def input(self) -> Input_co: ...
    @property
    def outputs(self) -> Outputs:
        """Returns the outputs of the stages before this one."""

    @property
    def resources(self) -> Resources_co:
        """Returns what `Pipeline.resources` opened for this worker; None without it."""

    @property
    def deadline(self) -> float:
        """Returns the Unix time at which the engine cancels the stage, as things stand.

        It moves when the job's first call is granted: waiting for that does not count as work.
        """

    async def call(self, call: Call[Answer]) -> Reply[Answer]:
        """Calls the job's model: waits for a free slot, records usage, tries again what may pass.

        A paid call is paid once: its reply is recorded, and a later run of the stage gets it at once. Calls
        may run side by side (`asyncio.gather`). Raises `PermanentError` when the model will not answer, as
        `InvalidAnswer` when it answered and the answer does not fit the schema or the tools, as `CallChanged`
        when `call.key` stands for another question, as `BudgetExceeded` when it might cost more than is left
        of the job's `max_usd`; `RetryableError` when it did not answer before the
        deadline.
        """

    async def map(
        self,
        items: Iterable[Item],
        fn: Callable[[Item], Awaitable[Value]],
        *,
        limit: int = BRANCHES_AT_ONCE,
    ) -> list[Value]:
        """Awaits `fn(item)` for each item, at most `limit` side by side; returns the values in their order.

        The first branch that raises ends the others, and its error is raised as it is. Calls and steps in
        `fn` are recorded as everywhere, so that a later run repeats only what was in flight. Clients see how
        many branches are done. `items` are taken at once; work on many more than a thousand as several jobs.
        """

    def emit(self, text: str) -> None:
        """Shows `text` to the job's clients as the next piece of this stage's live text. Not stored."""

    def reserve(self, budget: str, tokens: float = 0.0) -> AbstractAsyncContextManager[None]:
        """Waits until a request may be sent to another API within its named budget, and counts it there.

        Send one request in the block, at once: the budget is that of `ECO2_BUDGETS__NAME__RPM`, for all
        workers together. `tokens`: what the request takes of `…__TPM`. Raise `RateLimited` in the block if
        the API answers 429: then nobody sends until its `retry_after`, and the stage is tried again unless it
        catches the error. Nothing is recorded: use it inside of the work of a `step`. Raises
        `PermanentError` without such a budget, or for more tokens than it has for a minute.
        """

    async def step(self, name: str, work: Callable[[str], Awaitable[JSON]]) -> JSON:
        """Runs `work` at least once and returns its recorded value, which is used once it is recorded.

        A later run of the stage gets the value without running `work`. `work` gets an id that is the same in
        every run: the idempotency key for a foreign API. It may run twice after a crash, and twice at the
        same time if its worker was silent for `ECO2_HOLDER_TIMEOUT`. Steps of one name are numbered.
        """


Delay = Literal[5, 30, 120]
"""Seconds, one for each queue in which orders wait (`eco2.ports.DELAYS`)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The tries of a stage that raises `RetryableError`.

    `attempts`: number of tries in all, counted again from 1 once the job got on: a recorded call, step or
    stage. `delays`: seconds before the second try, the third, and so on; the last one is also that of all
    further tries.
    """

    attempts: int = 4
    delays: tuple[Delay, ...] = (5, 30, 120)

    @property
    def total_delay(self) -> int:
        """Seconds for which a stage is put off that fails at every try, unless a provider asks for more."""
        further = max(0, self.attempts - 1 - len(self.delays))
        return sum(self.delays[: self.attempts - 1]) + further * self.delays[-1]


NEVER = Retry(attempts=1)
"""The first failure of the stage ends the job."""


@dataclass(frozen=True)
class Stage(Generic[Input, Resources]):
    """One step. `run` returns an instance of `output`; every stage has an output type of its own.

    `retry`: when it runs again after a `RetryableError`.
    """

    name: str
    run: Callable[[Context[Input, Resources]], Awaitable[BaseModel]]
    output: type[BaseModel]
    retry: Retry = Retry()


@dataclass(frozen=True)
class Upload:
    """A file of a multipart request."""

    filename: str
    content_type: str
    data: bytes


@dataclass(frozen=True)
class Form:
    """A request's body, decoded: the members of a JSON object, or fields and files of a multipart form.

    `image_urls`: whether a URL that the provider would fetch may be passed on (`ECO2_IMAGE_URLS`).
    """

    fields: Mapping[str, object]
    files: Mapping[str, Upload] = field(default_factory=dict)
    image_urls: bool = True


@dataclass(frozen=True)
class Pipeline(Generic[Input, Resources]):
    """A pipeline, as the engine and the gateway run it.

    `name` becomes the route (`POST /<name>`) and the queue (`jobs.<name>`); lower-case letters, digits, `-`.
    `result(outputs)` builds what clients read when the job completed, from all outputs; `result(None)`
    the same shape for a job that did not: a model of `result_type`, which `/openapi.json` describes, or
    without that a JSON object. The engine adds `task_id, status, message, error, usage`.
    `parse(form)` makes the input from a request (default: validate the fields as `input`); it may do slow
    work such as scaling a picture, and raises `InvalidInput`. `uploads`: the files that a form may carry, by
    field, each with the member of `input` that it stands for; `upload_type`: their media type. `routes`:
    further `GET /<name>/<path>` documents. `codes`: the codes of refused requests by HTTP status; the one for
    413 also answers a body above `ECO2_MAX_UPLOAD_MB`.
    `check()` runs once when a process starts; it raises `ConfigurationError` if the pipeline's data is not
    whole.
    `resources()` returns an async context manager for what all jobs of a worker share, as pools and clients:
    each worker enters it at its start, before it takes jobs, and leaves it after its last job; stages find
    its value in `context.resources`. Gateways do not enter it.
    `check_local(input)` raises `InvalidInput` for what the model `local` cannot answer: the gateway refuses
    such a job where it can go to no other model. `language_model_required` refuses every job.
    `max_wait`: seconds from a job's acceptance until its first call is granted, or it ends as `EXPIRED`.
    `timeout`: seconds from its start until it ends as `TIMEOUT`. A client may ask for less, never for more.
    None: `ECO2_MAX_WAIT`, `ECO2_TIMEOUT`.
    `max_usd`: USD that the calls of one job may cost, or it ends as `BUDGET_EXCEEDED`; a client may ask for
    less. None: any sum, unless the client limits it.
    """

    name: str
    input: type[Input]
    stages: tuple[Stage[Input, Resources], ...]
    result: Callable[[Outputs | None], JSON | BaseModel]
    parse: Callable[[Form], Awaitable[Input]] | None = None
    uploads: Mapping[str, str] = field(default_factory=dict)
    upload_type: str = "application/octet-stream"
    codes: Mapping[int, str] = field(default_factory=dict)
    routes: Mapping[str, Callable[[], JSON]] = field(default_factory=dict)
    check: Callable[[], None] | None = None
    check_local: Callable[[Input], None] | None = None
    resources: Callable[[], AbstractAsyncContextManager[Resources]] | None = None
    result_type: type[BaseModel] | None = None
    max_wait: float | None = None
    timeout: float | None = None
    max_usd: float | None = None

    def result_json(self, outputs: Outputs | None) -> JSON:
        """Builds the pipeline's members of a result as JSON. Raises TypeError for another type."""
        result = self.result(outputs)
        if self.result_type is not None and not isinstance(result, self.result_type):
            raise TypeError(f"`result` must return {self.result_type.__name__}, not {type(result).__name__}")
        return result.model_dump(mode="json", by_alias=True) if isinstance(result, BaseModel) else result


def language_model_required(_: BaseModel) -> None:
    """Refuses every job: for `Pipeline.check_local` of a pipeline whose calls have no `fallback`."""
    raise InvalidInput("this needs a language model, and none is offered here", "MODEL_REQUIRED")


AnyPipeline = Pipeline[Any, Any]
AnyStage = Stage[Any, Any]
"""A pipeline whose types the engine does not need to know."""


def load(reference: str) -> AnyPipeline:
    """Imports the pipeline named by a string such as `eco2.stages:scan`. Raises `ConfigurationError`."""
    name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(name)
    except (Exception, SystemExit) as error:  # a module's own code may raise anything
        raise ConfigurationError(
            f"ECO2_PIPELINES: cannot import {reference!r}: {import_problem(name, error)}"
        ) from error
    found = getattr(module, attribute, None)
    if isinstance(found, Pipeline):
        return found
    there = [key for key, value in vars(module).items() if isinstance(value, Pipeline)]
    near = difflib.get_close_matches(attribute, there, n=1)
    meant = f"did you mean {name}:{near[0]}?" if near else f"its pipelines: {', '.join(there) or 'none'}"
    what = f"is a {type(found).__name__}, not a Pipeline" if hasattr(module, attribute) else "does not exist"
    raise ConfigurationError(f"ECO2_PIPELINES: {reference!r} {what}; {meant}")


def import_problem(module: str, error: BaseException) -> str:
    """Describes why an import failed: the module does not exist, or its own code raised."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
        parent, _, last = error.name.rpartition(".")
        path = getattr(sys.modules[parent], "__path__", ()) if parent in sys.modules else None
        near = difflib.get_close_matches(last, [each.name for each in pkgutil.iter_modules(path)], n=1)
        meant = f"did you mean {parent + '.' if parent else ''}{near[0]}?" if near else "correct its name"
        return f"there is no module {error.name}; {meant}"
    frames = [each for each in traceback.extract_tb(error.__traceback__) if "<frozen" not in each.filename]
    where = error if isinstance(error, SyntaxError) else frames[-1]
    return f"{type(error).__name__}: {error} ({where.filename}:{where.lineno}); correct the module"
