"""One call of a model as a value.

The request of a stage, the reply, and the errors that were paid for.

No provider's format in here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Generic, TypeVar

from eco2.errors import InputRefused, PermanentError

Answer = TypeVar("Answer")


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


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """The reply of a model: the text or the validated object, the model's name, and the cost."""

    value: Answer
    model: str
    usage: Usage


class PaidCallFailed(PermanentError):
    """The call was paid for, and its answer is of no use. `model`, `usage`: as in a `Reply`."""

    for_clients = "the model gave no answer that can be used: send it again"

    def __init__(self, message: str, model: str, usage: Usage) -> None:
        super().__init__(message)
        self.model = model
        self.usage = usage


class InvalidAnswer(PaidCallFailed):
    """The model's answer does not fit `Call.schema`; the same call would bring the same.

    `text`: the answer; `problem`: its error, in words by which a model can correct it. A stage may catch this
    and call again.
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
