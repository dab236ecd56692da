"""Limits that a provider names: one answer rules nothing, and what is not named again is forgotten."""

import httpx2
import pytest

from eco2.llm import hooks
from eco2.quota.named import Named


def after(*limits: float | None) -> float | None:
    named = Named()
    for now, limit in enumerate(limits):
        named = named.add(float(now), limit)
    return named.at(len(limits))


@pytest.mark.parametrize(
    ("limits", "believed"),
    [
        ((), None),
        ((1.0,), None),
        ((500.0, 500.0), 500.0),
        ((1.0, 500.0), 500.0),
        ((500.0, 500.0, 1.0), 500.0),
        ((500.0, 1.0, 500.0), 500.0),
        ((500.0, 1e12, 500.0), 500.0),
        ((500.0, 500.0, 60.0, 60.0), 60.0),
        ((500.0, 500.0, None, None), 500.0),
    ],
)
def test_one_answer_rules_nothing(limits: tuple[float | None, ...], believed: float | None) -> None:
    assert after(*limits) == believed


def test_a_limit_that_is_not_named_again_is_forgotten_after_a_while() -> None:
    named = Named().add(0.0, 60.0).add(1.0, 60.0).add(50.0, None)
    assert named.at(2.0) == 60.0
    assert named.at(300.0) is None


@pytest.mark.parametrize(
    "text", ["0", "-1", "nan", "inf", "1e400", "", "many", "²", "٣٠٠", "0.01", "None", "100, 100"]
)
def test_a_limit_that_makes_no_sense_is_none(text: str) -> None:
    headers = httpx2.Headers(
        [(b"x-ratelimit-limit-requests", text.encode()), (b"x-ratelimit-limit-tokens", text.encode())]
    )
    assert hooks.named(headers) == (None, None)


def test_limits_that_make_sense_are_read() -> None:
    headers = httpx2.Headers({"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000.0"})
    assert hooks.named(headers) == (500.0, 30_000.0)
    assert hooks.named(httpx2.Headers({})) == (None, None)
