"""Holds the shape of `eco2/`: few private functions, none that is long, and plain docstrings."""

import pytest

from tests.support.shape import ROOT, fault, shapes

ECO2 = shapes(ROOT / "eco2")["all"]
MAX_PRIVATE = 0.25


def test_at_most_a_quarter_of_all_functions_is_private() -> None:
    assert ECO2.functions > 1000
    assert ECO2.private_share <= MAX_PRIVATE


def test_no_function_is_longer_than_50_lines() -> None:
    assert ECO2.long == []


def test_each_docstring_begins_with_a_short_plain_sentence() -> None:
    assert ECO2.docstrings > 1000
    assert ECO2.unclear == []


@pytest.mark.parametrize(
    ("docstring", "found"),
    [
        ("Returns the plan.", ""),
        ("What came back: a plan.", "headless"),
        ("Who holds the job is asked.", "headless"),
        (" ".join(["word"] * 21) + ".", "21 words"),
        (" ".join(["word"] * 20) + ". " + " ".join(["word"] * 30), ""),
        ("Reads `a long quotation " + "of words " * 20 + "in code`.", ""),
    ],
)
def test_an_unclear_docstring_is_found(docstring: str, found: str) -> None:
    assert fault(docstring) == found
