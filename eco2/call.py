"""One call of a model as a value.

The request of a stage, the reply, and the errors that were paid for.

No provider's format in here.
"""

import base64
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

from eco2.errors import InputRefused, PermanentError

Answer = TypeVar("Answer")
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
"""How much a model may reason before it answers, on tokens of `Call.max_tokens`; a model takes some."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one call was charged for, as the provider reports them (0 for a local model).

    `cost`: USD, by the price list of the model; None where the price is not known.
    """

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal | None = None


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens of uncached input, cached input and output."""

    input: Decimal
    cached: Decimal
    output: Decimal

    def cost(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """Returns the exact cost in USD. `cached_tokens` are a part of `input_tokens`."""
        fresh = (input_tokens - cached_tokens) * self.input
        return (fresh + cached_tokens * self.cached + output_tokens * self.output) / 1_000_000


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask the stage to run.

    `name`: 1 to 64 of `a-z`, `A-Z`, `0-9`, `_` and `-`. `description`: tells the model when to use it.
    `parameters`: the pydantic model of its arguments; the model is held to its JSON schema.
    """

    name: str
    description: str
    parameters: type[BaseModel]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model's request to run a tool. `arguments`: an instance of the tool's `parameters`.

    `id`: the provider's name for it, by which `result` is matched.
    """

    id: str
    name: str
    arguments: BaseModel

    def result(self, text: str) -> "Message":
        """Makes the message that answers the request; `text`: what the tool returned."""
        return Message("tool", text, tool_call_id=self.id)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `images`: of a user's, as in `Call.image`. `tool_calls`: of an assistant's. `tool_call_id`: of a tool's,
    the id of the request that it answers.
    """

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    images: tuple[str, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class Vectors(tuple[tuple[float, ...], ...]):
    """The vectors of texts, in their order: floats of 32 bits, usually of length 1."""

    __slots__ = ()

    def pack(self) -> list[str]:
        """Encodes each vector as base64 of its floats, little-endian, as providers send them."""
        return [base64.b64encode(_little_endian(array("f", vector)).tobytes()).decode() for vector in self]

    @classmethod
    def unpack(cls, packed: Sequence[str]) -> "Vectors":
        """Decodes what `pack` makes. Raises `ValueError` for anything else."""
        vectors = []
        for text in packed:
            floats = array("f")
            floats.frombytes(base64.b64decode(text, validate=True))
            vectors.append(tuple(_little_endian(floats)))
        return cls(vectors)


def _little_endian(floats: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        floats.byteswap()
    return floats


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """The request of a stage to a model.

    `kind`: the call's name in metrics and logs, usually the stage's. `system`: the part that is the same
    for every job (first, so that providers can cache it); `text`: the part of this job.
    `image`: an http(s) URL or a `data:image/...;base64,` URL. `schema`: `str` for text, else the pydantic
    model that the answer must fit. `max_tokens`: the most that the answer may take.
    `stream`: show the text to clients as it is written (text calls only).
    `user_text`: the part of `text` that a user wrote, verbatim. The most tokens that it can have are
    reserved; if it is unusual, estimates are not learned from it.
    `key`: names the call within its stage; by default its recorded reply is found by its content.
    `fallback`: computes the answer without a language model. Only a model that is none calls it, with what it
    knows; `eco2/llm/local.py` passes the labels that it sees in `image`. The engine never looks at it.
    `model`: asks this model instead of the one that the job names, or that is free first.

    `messages`: what was said after `text`, or the whole conversation where `text` is empty. `tools`: what
    the model may ask for; `schema` is then `str`, and `Reply.tool_calls` may hold requests. `tool_choice`:
    `auto`, `none`, `required`, or the name of the one tool to use. `effort`, `seed`, `temperature` (0 to 2):
    sent only if they are set; if the model does not take them, another provider gets the call.
    `texts`, `dimensions`: of `embedding`, which makes such calls. Raises `ValueError` for an impossible call.
    """

    kind: str
    system: str
    text: str
    schema: type[Answer]
    max_tokens: int
    image: str | None = None
    stream: bool = False
    fallback: Callable[..., Answer] | None = None
    user_text: str = ""
    key: str | None = None
    model: str | None = None
    messages: tuple[Message, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: str = "auto"
    effort: Effort | None = None
    seed: int | None = None
    temperature: float | None = None
    texts: tuple[str, ...] = ()
    dimensions: int | None = None

    def __post_init__(self) -> None:
        if self.tools and self.schema is not str:
            raise ValueError(
                f"the call '{self.kind}' has tools, so its schema must be str: for an answer of another "
                "form, offer a tool that takes it"
            )
        known = ("auto", "none", "required", *(tool.name for tool in self.tools))
        if self.tool_choice not in known or (self.tool_choice != "auto" and not self.tools):
            raise ValueError(f"tool_choice {self.tool_choice!r} is none of the tools of '{self.kind}'")


def embedding(
    texts: Sequence[str],
    model: str,
    *,
    kind: str = "embedding",
    dimensions: int | None = None,
    key: str | None = None,
) -> Call[Vectors]:
    """Makes the call whose reply has a vector for each text, in their order.

    `model`: of a provider for embeddings. `dimensions`: of each vector (default: the model's own). One call
    is one request, so the provider's bounds hold: at OpenAI 2,048 texts of 8,192 tokens each, 300,000 in all.
    The reply is one record of at most 8 MB, which holds 900 vectors of 1,536 numbers; send more in several
    calls. Raises `ValueError` without a text, or with an empty one.
    """
    if not texts or not all(texts):
        raise ValueError("there is nothing to embed: give texts that are not empty")
    return Call(kind, "", "", Vectors, 0, key=key, model=model, texts=tuple(texts), dimensions=dimensions)


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """The reply of a model: the text or the validated object, the model's name, and the cost.

    `tool_calls`: tools that the stage is to run, in order; `value` is then the text beside them, often empty.
    """

    value: Answer
    model: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()

    @property
    def message(self) -> Message:
        """Returns the reply as a message, for `Call.messages` of the next turn."""
        text = self.value.model_dump_json() if isinstance(self.value, BaseModel) else str(self.value)
        return Message("assistant", text, tool_calls=self.tool_calls)


class PaidCallFailed(PermanentError):
    """The call was paid for, and its answer is of no use. `model`, `usage`: as in a `Reply`."""

    for_clients = "the model gave no answer that can be used: send it again"

    def __init__(self, message: str, model: str, usage: Usage) -> None:
        super().__init__(message)
        self.model = model
        self.usage = usage


class InvalidAnswer(PaidCallFailed):
    """The model's answer does not fit `Call.schema` or `Call.tools`; the same call would bring the same.

    `text`: the answer, or the arguments of the tool; `problem`: its error, in words by which a model can
    correct it. A stage may catch this and call again.
    """

    code = "UNFIT_ANSWER"

    def __init__(self, message: str, model: str, usage: Usage, text: str, problem: str) -> None:
        super().__init__(message, model, usage)
        self.text = text
        self.problem = problem


class UnreadableAnswer(PaidCallFailed):
    """The answer is empty, or has a form that cannot be read: asking again would cost as much again."""

    code = "UNREADABLE_ANSWER"


class CallChanged(PermanentError):
    """A call with an explicit key differs from the recorded call of that key."""

    code = "CALL_CHANGED"


class ModelRefused(PaidCallFailed, InputRefused):
    """The model, or a filter after it, declined to answer."""

    for_clients = InputRefused.for_clients
