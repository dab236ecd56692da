"""The local model as a `Model`: it looks off the loop, answers by the call's own table, and streams."""

import base64
import threading
from collections.abc import Sequence
from decimal import Decimal

import pytest

from eco2.call import Call, Usage
from eco2.errors import ProviderRefused
from eco2.llm.local import NAME, LocalModel
from eco2.pipeline import Label

DATA_URL = "data:image/jpeg;base64," + base64.b64encode(b"a picture").decode()


class Eyes:
    """A classifier that reports what it got, and from which thread."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.threads: list[int] = []

    def classify(self, data: bytes) -> tuple[Label, ...]:
        self.seen.append(data)
        self.threads.append(threading.get_ident())
        return (Label("mug", 0.9), Label("cup", 0.1))


def names(labels: Sequence[Label]) -> str:
    return " ".join(label.name for label in labels)


def call(image: str | None = None, stream: bool = False) -> Call[str]:
    return Call("kind", "system", "text", str, 10, image=image, stream=stream, fallback=names)


async def test_it_answers_with_what_the_call_makes_of_the_labels() -> None:
    eyes = Eyes()
    reply = await LocalModel(eyes).complete(call(DATA_URL), "job", lambda _: None)
    assert (reply.value, reply.model, reply.usage) == ("mug cup", NAME, Usage(cost=Decimal(0)))
    assert eyes.seen == [b"a picture"]


async def test_it_looks_on_another_thread() -> None:
    eyes = Eyes()
    await LocalModel(eyes).complete(call(DATA_URL), "job", lambda _: None)
    assert eyes.threads != [threading.get_ident()]


async def test_a_call_without_a_picture_sees_nothing() -> None:
    eyes = Eyes()
    reply = await LocalModel(eyes).complete(call(), "job", lambda _: None)
    assert (reply.value, eyes.seen) == ("", [])


async def test_a_streamed_text_comes_whole() -> None:
    """Its answer follows within a millisecond, so of several pieces only the first would be shown."""
    pieces: list[str] = []
    reply = await LocalModel(Eyes()).complete(call(DATA_URL, stream=True), "job", pieces.append)
    assert pieces == [reply.value]


async def test_a_text_that_is_not_streamed_is_not_shown() -> None:
    pieces: list[str] = []
    await LocalModel(Eyes()).complete(call(DATA_URL), "job", pieces.append)
    assert pieces == []


async def test_a_call_that_only_a_language_model_can_answer_says_so() -> None:
    with pytest.raises(ProviderRefused, match="needs a language model") as refused:
        await LocalModel(Eyes()).complete(Call("kind", "", "", str, 10), "job", lambda _: None)
    assert refused.value.code == "MODEL_REQUIRED"


@pytest.mark.parametrize("url", ["https://example.org/a.jpg", "http://localhost/", "file:///etc/passwd", ""])
async def test_nothing_is_fetched(url: str) -> None:
    with pytest.raises(ProviderRefused, match="upload the picture") as refused:
        await LocalModel(Eyes()).complete(call(url), "job", lambda _: None)
    assert refused.value.code == "IMAGE_URL_UNSUPPORTED"
