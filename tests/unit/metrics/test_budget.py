"""The series of budgets: what a leader shows at each scrape, and what every worker counts."""

import re
from pathlib import Path

from eco2.metrics import Metrics
from eco2.pacer import Limits
from eco2.quota.member import Status


def status(epoch: str) -> Status:
    return Status(epoch, Limits(500.0), Limits(120.0), Limits(80.0), waiting=7, factor=0.6)


def lines(metrics: Metrics) -> set[str]:
    return {line for line in metrics.render().decode().splitlines() if line.startswith("eco2_quota")}


def test_a_leader_shows_its_budget_and_others_only_that_they_do_not_lead() -> None:
    metrics, standing = Metrics(), {"now": status("a")}
    metrics.show_budget("gemini", lambda: standing.get("now"))
    assert lines(metrics) == {
        'eco2_quota_leader{provider="gemini"} 1.0',
        'eco2_quota_terms_total{provider="gemini"} 1.0',
        'eco2_quota_limit{provider="gemini",what="requests"} 500.0',
        'eco2_quota_used{provider="gemini",what="requests"} 120.0',
        'eco2_quota_assumed{provider="gemini",what="requests"} 80.0',
        'eco2_quota_waiting{provider="gemini"} 7.0',
        'eco2_quota_factor{provider="gemini"} 0.6',
    }
    standing.clear()
    assert lines(metrics) == {
        'eco2_quota_leader{provider="gemini"} 0.0',
        'eco2_quota_terms_total{provider="gemini"} 1.0',
    }


def test_terms_are_a_number_and_no_label() -> None:
    metrics, epochs = Metrics(), iter(["a", "a", "b", "c", "c"])
    metrics.show_budget("gemini", lambda: status(next(epochs)))
    counted = [
        next(line.rpartition(" ")[2] for line in lines(metrics) if "terms_total" in line) for _ in range(5)
    ]
    assert counted == ["1.0", "1.0", "2.0", "3.0", "3.0"]


def test_what_was_paid_today_stands_beside_its_limit() -> None:
    metrics, spent = Metrics(), [1.5]
    metrics.show_spending(20.0, lambda: spent[0])
    assert "eco2_daily_limit_usd 20.0" in metrics.render().decode()
    spent[0] = 3.25
    assert "eco2_spent_today_usd 3.25" in metrics.render().decode()


def test_every_series_of_the_text_exists_and_every_budget_series_is_in_the_text() -> None:
    text = (Path(__file__).parents[3] / "docs/providers.md").read_text()
    metrics = Metrics()
    metrics.show_spending(1.0, lambda: 0.0)
    metrics.show_budget("p", lambda: status("a"))
    shown = set(re.findall(r"^# TYPE (\w+) ", metrics.render().decode(), re.MULTILINE))
    named = set(re.findall(r"`(eco2_\w+)`", text))
    assert named <= shown
    assert {series for series in shown if series.startswith("eco2_quota")} <= named


def test_what_workers_count() -> None:
    metrics = Metrics()
    metrics.reserved("openai", 1, 800)
    metrics.reserved("openai", 1, 200)
    metrics.reserved("openai", -1, -800)
    metrics.grant_ended("openai", "expired")
    metrics.grant_ended("openai", "used")
    metrics.rate_limited("openai", "tokens")
    metrics.call_waited("openai", "batch", 3.0)
    metrics.breaker("openai", closed=False)
    shown = metrics.render().decode().splitlines()
    for line in (
        'eco2_quota_reserved{provider="openai",what="requests"} 1.0',
        'eco2_quota_reserved{provider="openai",what="tokens"} 200.0',
        'eco2_quota_grants_total{outcome="expired",provider="openai"} 1.0',
        'eco2_quota_grants_total{outcome="used",provider="openai"} 1.0',
        'eco2_rate_limited_total{kind="tokens",provider="openai"} 1.0',
        'eco2_call_wait_seconds_sum{priority="batch",provider="openai"} 3.0',
        'eco2_breaker_open{provider="openai"} 1.0',
    ):
        assert line in shown
