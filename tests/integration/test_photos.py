"""The local model on twenty real photos: mostly right, rarely wrong, else honest."""

from collections import Counter

import pytest

from eco2.llm.classifier import open_classifier
from tests.photos import BEGIN, DOCUMENT, END, PhotosMissing, Verdict, folder, judge, photos, table


@pytest.fixture(scope="module")
def verdicts() -> list[Verdict]:
    try:
        folder()
    except PhotosMissing as missing:
        pytest.fail(str(missing), pytrace=False)
    classifier = open_classifier()
    return [judge(classifier, photo) for photo in photos()]


@pytest.mark.timeout(600)  # the first run fetches two packages, 260 MB
def test_most_majors_are_right_and_hardly_any_is_wrong(verdicts: list[Verdict]) -> None:
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    assert len(verdicts) == 20
    assert outcomes["right"] >= 14, table(verdicts)
    assert outcomes["wrong"] <= 2, table(verdicts)


def test_the_photos_cover_most_majors(verdicts: list[Verdict]) -> None:
    assert len({verdict.photo.major for verdict in verdicts}) >= 6


def test_the_documented_table_is_what_is_measured(verdicts: list[Verdict]) -> None:
    """Labels and scores may differ a little between versions of the libraries, decisions may not."""
    documented = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert _decisions(documented) == _decisions(table(verdicts))


def _decisions(text: str) -> list[tuple[str, ...]]:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    return [(*row[:3], *row[5:]) for row in rows]
