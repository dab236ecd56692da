"""The table of series: what is shown is in it, what is in it can be shown, and labels cannot grow."""

import asyncio
import re
from decimal import Decimal
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from eco2.assembly import metrics_of
from eco2.broker.embedded import Embedded
from eco2.broker.topology import Topology
from eco2.call import InvalidAnswer, ModelRefused, PaidCallFailed, UnreadableAnswer, Usage
from eco2.errors import (
    CallUnsupported,
    InputRefused,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    ProviderRefused,
    ProviderTimeout,
    RateLimited,
    StaleRun,
)
from eco2.journal.backlog import Backlog
from eco2.journal.journal import Journal, Status
from eco2.journal.presence import Presence
from eco2.journal.view import View
from eco2.metrics import Metrics
from eco2.metrics.metrics import call_outcome
from eco2.metrics.page import markdown
from eco2.metrics.series import all_series
from eco2.pacer import Limits
from eco2.ports import LinkStatus
from eco2.quota.member import Status as BudgetStatus
from eco2.watchdog import LoopWatch

ROOT = Path(__file__).parents[3]


BUDGET = BudgetStatus("a", Limits(500.0, 500_000.0), Limits(120.0, 40_000.0), Limits(0.0, 0.0), 7, 1.0)
STATUS = Status(
    3,
    0.5,
    1.5,
    2,
    True,
    {"scan": Backlog(4, 2, {"batch": 30.0}), "elsewhere": Backlog(9, 9)},
    snapshot_age=20.0,
)


def everything() -> Metrics:
    """Metrics of a process in which everything happened once."""
    metrics = Metrics()
    metrics.process("serve")
    metrics.gateway(["scan"])
    metrics.worker(["scan"], 100)
    metrics.provider("openai", 50)
    metrics.job_accepted("scan", 0.02)
    metrics.request_refused("scan", "IMAGE_TOO_LARGE")
    metrics.job_started("scan", "batch")
    metrics.job_started("scan", "batch")
    metrics.job_left("scan", "batch", "completed", 3.0)
    metrics.job_ended("scan", "completed", None)
    metrics.job_ended("scan", "failed", "INTERNAL")
    metrics.dead_letter("scan", "INTERNAL")
    metrics.stage_ended("scan", "vision", "completed", 0.5)
    metrics.call_retried("vision")
    metrics.call_waited("openai", "batch", 0.1)
    metrics.call_granted("openai", "batch", 0.1)
    metrics.reserved("openai", 1, 800)
    metrics.grant_ended("openai", "used")
    metrics.call_ended("vision", "gpt", "ok", 0.5, Usage(100, 20, 7, Decimal("0.25")))
    metrics.call_ended("vision", "gpt", "timeout", 60.0, None)
    metrics.breaker("openai", closed=False)
    metrics.breaker_opened("openai", "down")
    metrics.first_event("scan", 0.004)
    metrics.loop_late(0.001)
    metrics.barrier_passed(0.003)
    metrics.show_budget("openai", lambda: BUDGET)
    metrics.show_spending(20.0, lambda: 1.5)
    metrics.show_journal(["scan"], lambda: STATUS)
    metrics.show_broker(lambda: [LinkStatus("publish", True, 2)], lambda: False)
    metrics.show_presence(Presence(Embedded(Topology()), "p", "worker", ("scan",)))
    metrics.show_queues(lambda: {"dead": 1})
    return metrics


def test_every_series_of_the_table_can_be_shown_and_no_other_is() -> None:
    """The parser of the client reads the page, so it is well-formed, too."""
    families = {
        family.name: family for family in text_string_to_metric_families(everything().render().decode())
    }
    ours = {name: family for name, family in families.items() if not name.startswith("process_")}
    assert set(ours) == set(all_series())
    for name, series in all_series().items():
        family = ours[name]
        assert family.samples, f"nothing shows {name}"
        assert (family.type, family.documentation) == (series.kind, series.help)
        assert {key for sample in family.samples for key in sample.labels} - {"le"} == set(series.labels)
    assert "process_resident_memory_bytes" in families


def test_what_happened_is_counted() -> None:
    lines = everything().render().decode().splitlines()
    for line in (
        'eco2_jobs_accepted_total{pipeline="scan"} 1.0',
        'eco2_submit_seconds_sum{pipeline="scan"} 0.02',
        'eco2_requests_refused_total{code="IMAGE_TOO_LARGE",pipeline="scan"} 1.0',
        'eco2_jobs_running{pipeline="scan",priority="batch"} 1.0',
        'eco2_job_slots{pipeline="scan",priority="batch"} 100.0',
        'eco2_job_seconds_count{pipeline="scan",status="completed"} 1.0',
        'eco2_jobs_ended_total{code="OK",pipeline="scan",status="completed"} 1.0',
        'eco2_jobs_ended_total{code="INTERNAL",pipeline="scan",status="failed"} 1.0',
        'eco2_dead_letters_total{code="INTERNAL",pipeline="scan"} 1.0',
        'eco2_stage_seconds_sum{pipeline="scan",stage="vision",status="completed"} 0.5',
        'eco2_call_seconds_count{kind="vision",model="gpt",outcome="timeout"} 1.0',
        'eco2_tokens_total{direction="input",kind="vision",model="gpt"} 100.0',
        'eco2_tokens_total{direction="cached",kind="vision",model="gpt"} 20.0',
        'eco2_tokens_total{direction="output",kind="vision",model="gpt"} 7.0',
        'eco2_cost_usd_total{kind="vision",model="gpt"} 0.25',
        'eco2_breaker_openings_total{provider="openai",why="down"} 1.0',
        'eco2_breaker_openings_total{provider="openai",why="refused"} 0.0',
        'eco2_first_event_seconds_bucket{le="0.005",pipeline="scan"} 1.0',
        'eco2_sse_connections{pipeline="scan"} 0.0',
        "eco2_journal_skipped_total 2.0",
        "eco2_view_jobs 3.0",
        "eco2_outbox_oldest_seconds 1.5",
        "eco2_intake_paused 1.0",
        'eco2_jobs_backlog{pipeline="scan"} 4.0',
        'eco2_jobs_waiting{pipeline="scan"} 2.0',
        'eco2_jobs_oldest_waiting_seconds{pipeline="scan",priority="batch"} 30.0',
        'eco2_jobs_oldest_waiting_seconds{pipeline="scan",priority="interactive"} 0.0',
        'eco2_broker_reconnects_total{link="publish"} 2.0',
        'eco2_queue_messages{queue="dead"} 1.0',
    ):
        assert line in lines


def test_no_series_has_a_time_of_its_making() -> None:
    assert b"_created" not in everything().render()


def test_two_processes_in_one_do_not_share_metrics() -> None:
    one, two = Metrics(), Metrics()
    one.job_accepted("scan", 0.1)
    assert b"scan" not in two.render()


def test_a_label_of_any_number_of_values_makes_no_more_series_than_are_allowed() -> None:
    metrics = Metrics()
    for number in range(1000):
        metrics.request_refused("scan", f"CODE_{number}")
    lines = [line for line in metrics.render().decode().splitlines() if "requests_refused_total{" in line]
    assert len(lines) == 301
    assert 'eco2_requests_refused_total{code="other",pipeline="other"} 700.0' in lines


def test_the_table_of_the_texts_names_every_series() -> None:
    named = re.findall(r"^\| `(\w+)` \|", markdown(), re.MULTILINE)
    assert named == [series.shown_as for series in all_series().values()]
    assert (ROOT / "docs/metrics.md").read_text() == markdown()


async def test_a_process_shows_the_journal_and_its_links() -> None:
    broker = Embedded(Topology("eco2", ()))
    metrics = metrics_of("gateway", (), broker, Journal(broker, View(60.0, lambda: 1000.0)))
    shown = metrics.render().decode()
    assert "eco2_view_jobs 0.0" in shown
    assert 'eco2_broker_up{link="memory"} 0.0' in shown
    assert 'role="gateway"' in shown


async def test_a_loop_that_is_held_up_is_seen() -> None:
    metrics, stop = Metrics(), asyncio.Event()
    loop, watch = asyncio.get_running_loop(), LoopWatch(metrics, period=0.01)
    watching = asyncio.create_task(watch.run(stop))
    await asyncio.sleep(0.03)
    held_until = loop.time() + 0.1
    while loop.time() < held_until:
        pass
    await asyncio.sleep(0.03)
    stop.set()
    await watching
    buckets = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
        if sample.name == "eco2_loop_lag_seconds_bucket"
    }
    assert buckets["+Inf"] - buckets["0.05"] >= 1


def test_the_outcome_of_a_call_keeps_its_label_whatever_the_class_of_the_error_is_called() -> None:
    paid = ("", "m", Usage())
    errors = {
        "NoAnswer": PaidCallFailed(*paid),
        "UnfitAnswer": InvalidAnswer(*paid, text="", problem=""),
        "UnreadableAnswer": UnreadableAnswer(*paid),
        "AnswerRefused": ModelRefused(*paid),
        "ProviderSilent": ProviderTimeout(""),
        "ProviderDown": ProviderDown(""),
        "ProviderError": ProviderError(""),
        "RateLimited": RateLimited(""),
        "ProviderRefused": ProviderRefused(""),
        "ProviderClosed": ProviderAccessDenied(""),
        "InputRefused": InputRefused(""),
        "CallUnsupported": CallUnsupported(""),
        "RunVoid": StaleRun(""),
    }
    assert {label: call_outcome(error) for label, error in errors.items()} == {
        label: label for label in errors
    }
