"""One call of a model as a value: what a stage asks, and what it gets back. No provider's format in here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Label:
    """What an image classifier saw: a class name and its score (0..1)."""

    name: str
    score: float


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one call was charged for, as the provider reports them (0 for a local model)."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Call(Generic[Answer]):
    """What a stage asks of a model.

    `kind`: the call's name in metrics and logs, usually the stage's. `system`: the part that is the same
    for every job (first, so that providers can cache it); `text`: this job's part.
    `image`: an http(s) URL or a `data:image/...;base64,` URL. `schema`: `str` for text, else the pydantic
    model that the answer must fit. `max_tokens`: the most that the answer may take.
    `stream`: show the text to clients as it is written (text calls only).
    `local`: how a plain image classifier answers this call without a language model: it gets the labels
    seen in `image`, best first (none where the call has no image), and returns the answer.
    """

    kind: str
    system: str
    text: str
    schema: type[Answer]
    max_tokens: int
    image: str | None = None
    stream: bool = False
    local: Callable[[Sequence[Label]], Answer] | None = None


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """What came back: the text or the validated object, who answered, and what it cost."""

    value: Answer
    model: str
    usage: Usage
