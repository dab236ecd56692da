"""What the process counts, for Prometheus: one object with a registry of its own, nothing global.

Methods are named by what happened; nobody else knows series or labels. Labels take values from small sets
only (pipelines, stages, statuses, models), never ids, so the number of series does not grow with jobs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from eco2.call import Usage
from eco2.errors import LimitKind
from eco2.pacer import Limits

WAITS = (0.002, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
"""Bounds of waits: from a budget with room to one that binds."""
GRANTS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120)
"""Bounds of what a grant takes: from a reply at once to a budget that binds."""
SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180)
"""Bounds of the histograms: from a table look-up to the longest life of a job."""


GrantOutcome = Literal["used", "expired", "refunded"]


class Budget(Protocol):
    """What a leader knows (`eco2.quota.term.Status`)."""

    @property
    def epoch(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def used(self) -> Limits: ...
    @property
    def waiting(self) -> int: ...
    @property
    def factor(self) -> float: ...


class Metrics:
    """One per process; handed to whoever has something to count."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        seconds = partial(Histogram, registry=registry, buckets=SECONDS)
        self._accepted = counter("eco2_jobs_accepted", "Jobs answered with 202.", ["pipeline"])
        self._running = gauge("eco2_jobs_running", "Jobs that this worker holds.", ["pipeline"])
        self._ended = seconds(
            "eco2_job_seconds",
            "From acceptance to the end of a worker's run, by outcome of the run.",
            ["pipeline", "status"],
        )
        self._stages = seconds(
            "eco2_stage_seconds", "Duration of a stage in one run.", ["pipeline", "stage", "status"]
        )
        self._calls = seconds(
            "eco2_call_seconds",
            "Duration of one model call, from its sending to its last byte.",
            ["kind", "model", "outcome"],
        )
        self._tokens = counter(
            "eco2_tokens",
            "Tokens that model calls were charged for. Cached ones are part of the input.",
            ["kind", "model", "direction"],
        )
        self._cost = counter(
            "eco2_cost_usd",
            "USD that model calls cost by list price; calls of models without a known price are not in it.",
            ["kind", "model"],
        )
        self._parked = gauge(
            "eco2_jobs_parked", "Jobs that wait here for the worker that holds them.", ["pipeline"]
        )
        self._taken_over = counter(
            "eco2_jobs_taken_over", "Jobs whose holder was silent for too long.", ["pipeline"]
        )
        self._adopted = counter(
            "eco2_deliveries_adopted", "Deliveries of a job that was at work here already.", ["pipeline"]
        )
        self._swept = counter(
            "eco2_jobs_swept",
            "Jobs that the sweep ended past their deadline, or ordered again.",
            ["pipeline", "what"],
        )
        self._breakers = gauge("eco2_breaker_open", "1 while the provider counts as down.", ["provider"])
        self._call_waits = seconds(
            "eco2_call_wait_seconds",
            "From a call that could be sent to its turn: a slot, a grant of the budget, the fence.",
            ["provider"],
            buckets=WAITS,
        )
        self._grant_seconds = seconds(
            "eco2_grant_seconds",
            "From asking for a share of the budget to the grant.",
            ["provider"],
            buckets=GRANTS,
        )
        self._grants = counter(
            "eco2_quota_grants",
            "Grants that this process got, by what became of them: refunded ones were not needed any more.",
            ["provider", "outcome"],
        )
        self._reserved = gauge(
            "eco2_quota_reserved",
            "What calls of this process hold of the budget, from their grant to their end.",
            ["provider", "what"],
        )
        self._rate_limited = counter(
            "eco2_rate_limited", "429 answers, by the limit that was met.", ["provider", "kind"]
        )
        self._budgets = _Budgets()
        registry.register(self._budgets)
        self._streams = gauge("eco2_sse_connections", "Open event streams.")

    def job_accepted(self, pipeline: str) -> None:
        """The gateway answered 202."""
        self._accepted.labels(pipeline).inc()

    def job_started(self, pipeline: str) -> None:
        """The worker took the job from the queue."""
        self._running.labels(pipeline).inc()

    def job_ended(self, pipeline: str, status: str, seconds: float) -> None:
        """The worker let go of the job; `seconds` since its acceptance."""
        self._running.labels(pipeline).dec()
        self._ended.labels(pipeline, status).observe(seconds)

    @contextmanager
    def job_parked(self, pipeline: str) -> Iterator[None]:
        """A job waits for its holder while the block runs."""
        with self._parked.labels(pipeline).track_inprogress():
            yield

    def job_taken_over(self, pipeline: str) -> None:
        """A job's holder was silent, and this worker goes on with the job."""
        self._taken_over.labels(pipeline).inc()

    def delivery_adopted(self, pipeline: str) -> None:
        """A job that runs here was delivered again."""
        self._adopted.labels(pipeline).inc()

    def job_swept(self, pipeline: str, what: str) -> None:
        """The sweep did something about a job: `what` is `ended` or `ordered again`."""
        self._swept.labels(pipeline, what).inc()

    def breaker(self, provider: str, *, closed: bool) -> None:
        """The breaker of a provider is closed, or not."""
        self._breakers.labels(provider).set(not closed)

    def call_waited(self, provider: str, seconds: float) -> None:
        """A call had its turn after `seconds`."""
        self._call_waits.labels(provider).observe(seconds)

    def call_granted(self, provider: str, seconds: float) -> None:
        """A call got its grant after `seconds`."""
        self._grant_seconds.labels(provider).observe(seconds)

    def reserved(self, provider: str, requests: float, tokens: float) -> None:
        """Calls hold so much more of the budget; less, if negative."""
        self._reserved.labels(provider, "requests").inc(requests)
        self._reserved.labels(provider, "tokens").inc(tokens)

    def grant_ended(self, provider: str, outcome: GrantOutcome) -> None:
        """A grant was used, or it grew too old, or it was not needed any more."""
        self._grants.labels(provider, outcome).inc()

    def rate_limited(self, provider: str, kind: LimitKind) -> None:
        """The provider answered 429."""
        self._rate_limited.labels(provider, kind).inc()

    def stage_ended(self, pipeline: str, stage: str, status: str, seconds: float) -> None:
        """A stage completed or failed after `seconds`."""
        self._stages.labels(pipeline, stage, status).observe(seconds)

    def call_ended(self, kind: str, model: str, outcome: str, seconds: float, usage: Usage | None) -> None:
        """A model call ended after `seconds`; `usage` if it was paid for."""
        self._calls.labels(kind, model, outcome).observe(seconds)
        if usage is not None:
            self._tokens.labels(kind, model, "input").inc(usage.input_tokens)
            self._tokens.labels(kind, model, "cached").inc(usage.cached_tokens)
            self._tokens.labels(kind, model, "output").inc(usage.output_tokens)
            if usage.cost is not None:
                self._cost.labels(kind, model).inc(float(usage.cost))

    @contextmanager
    def stream_open(self) -> Iterator[None]:
        """An event stream is open while the block runs."""
        with self._streams.track_inprogress():
            yield

    def show_budget(self, provider: str, status: Callable[[], Budget | None]) -> None:
        """Shows at each scrape how the provider's budget stands where this process leads."""
        self._budgets.statuses[provider] = status

    def show_spending(self, limit: float, spent: Callable[[], float]) -> None:
        """Shows at each scrape what was paid today, in USD, beside the most that may be."""
        self._registry.register(_Spending(limit, spent))

    def count_skipped(self, skipped: Callable[[], int]) -> None:
        """Shows `skipped()`, the journal messages that this version could not read, at each scrape."""
        self._registry.register(_Skipped(skipped))

    def render(self) -> bytes:
        """All series in Prometheus' text format (`content_type`)."""
        return generate_latest(self._registry)


class _Budgets(Collector):
    """Series of the budgets that this process leads; of all processes together there is one of each.

    A term is counted when it is scraped first: one that falls between two scrapes is missed.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, Callable[[], Budget | None]] = {}
        self._epochs: dict[str, str] = {}
        self._terms: dict[str, int] = {}

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        leader, limit, used, waiting, factor = (
            GaugeMetricFamily(f"eco2_quota_{name}", text, labels=labels)
            for name, text, labels in (
                ("leader", "1 where this process grants the provider's budget.", ["provider"]),
                ("limit", "What may be used in a minute, before the factor.", ["provider", "what"]),
                ("used", "What was granted in the last minute.", ["provider", "what"]),
                ("waiting", "Calls that wait for a grant.", ["provider"]),
                ("factor", "Share of the limit that is used, after 429 answers.", ["provider"]),
            )
        )
        terms = CounterMetricFamily("eco2_quota_terms", "Terms that this process began.", labels=["provider"])
        for provider, ask in self.statuses.items():
            status = ask()
            leader.add_metric([provider], float(status is not None))
            terms.add_metric([provider], self._counted(provider, status))
            if status is None:
                continue
            waiting.add_metric([provider], status.waiting)
            factor.add_metric([provider], status.factor)
            for family, amounts in ((limit, status.limits), (used, status.used)):
                for what, amount in (("requests", amounts.requests), ("tokens", amounts.tokens)):
                    if amount is not None:
                        family.add_metric([provider, what], amount)
        yield from (leader, terms, limit, used, waiting, factor)

    def _counted(self, provider: str, status: Budget | None) -> int:
        if status is not None and self._epochs.get(provider) != status.epoch:
            self._epochs[provider] = status.epoch
            self._terms[provider] = self._terms.get(provider, 0) + 1
        return self._terms.get(provider, 0)


class _Spending(Collector):
    """All processes show the same: it is a view of the journal."""

    def __init__(self, limit: float, spent: Callable[[], float]) -> None:
        self._limit = limit
        self._spent = spent

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "eco2_daily_limit_usd", "What may be paid for models in a day (UTC).", value=self._limit
        )
        yield GaugeMetricFamily(
            "eco2_spent_today_usd",
            "What was paid for models today (UTC), by list price.",
            value=self._spent(),
        )


class _Skipped(Collector):
    def __init__(self, skipped: Callable[[], int]) -> None:
        self._skipped = skipped

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "eco2_journal_skipped",
            "Journal messages and events that this version cannot read.",
            value=self._skipped(),
        )
