"""The router: a pinned model, the default, and what it says to an unknown name."""

import pytest

from eco2.errors import PermanentError
from eco2.llm.local import LocalModel
from eco2.llm.router import Router


class Blind:
    def classify(self, data: bytes) -> tuple[()]:
        return ()


FIRST, SECOND = LocalModel(Blind()), LocalModel(Blind())


def test_a_pinned_model_or_the_default() -> None:
    router = Router({"a": FIRST, "b": SECOND}, default="b")
    assert router.get("a") is FIRST
    assert router.get("b") is router.get(None) is SECOND


def test_names_begin_with_the_default() -> None:
    assert Router({"c": FIRST, "a": FIRST, "b": SECOND}, default="b").names == ("b", "a", "c")


@pytest.mark.parametrize("name", ["gpt-9", ""])
def test_an_unknown_model_is_refused_with_the_list(name: str) -> None:
    with pytest.raises(PermanentError, match="use one of: b, a") as caught:
        Router({"a": FIRST, "b": SECOND}, default="b").get(name)
    assert caught.value.code == "UNSUPPORTED_MODEL"


def test_a_default_that_does_not_exist_fails_at_start() -> None:
    with pytest.raises(ValueError, match="not among a"):
        Router({"a": FIRST}, default="b")
