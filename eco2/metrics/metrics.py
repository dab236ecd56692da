"""Counts for Prometheus: one object per process, with its own registry and nothing global.

Methods are named by the event that they count; no other module knows series or labels. Hot ones cost a
look-up and an addition. A process announces first what it will count (`gateway`, `worker`, `provider`), so
that its series start at 0: Prometheus cannot see the increase of a series that did not exist before.
"""

import platform
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Generic, Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import eco2
from eco2.call import InvalidAnswer, ModelRefused, PaidCallFailed, Usage
from eco2.errors import Eco2Error, LimitKind, ProviderAccessDenied, ProviderTimeout, StaleRun
from eco2.metrics.collectors import (
    BrokerCollector,
    BudgetCollector,
    BudgetSource,
    JournalCollector,
    JournalSource,
    LinkSource,
    PresenceCollector,
    PresenceSource,
    QueueCollector,
    SpendingCollector,
    WithoutCreated,
)
from eco2.metrics.series import SERIES

GrantOutcome = Literal["used", "expired", "refunded"]
Opening = Literal["down", "refused"]
"""Why a breaker opened: the provider is down, or refuses all our calls (key, permission, quota)."""
Swept = Literal["ended", "ordered again"]

NO_ERROR = "OK"
DEAD_CODES = ("INTERNAL", "UNAVAILABLE", "PROVIDER_REFUSED", "POISON", "MALFORMED")
"""Codes of `eco2.errors.PermanentFailure`."""
REFUSAL_CODES = ("INVALID_REQUEST", "BROKER_UNAVAILABLE", "SPEND_LIMIT", "INTERNAL")
"""Codes that a request for any pipeline may be refused with."""

MAX_LABELS = 300
"""Combinations of labels that one series may have; further ones are counted under `OTHER`."""
OTHER = "other"

Metric = TypeVar("Metric")


class LabelCache(Generic[Metric]):
    """The children of one series by their labels, each bound once; their number is bounded.

    `bind`: the method `labels` of the series.
    """

    def __init__(self, bind: Callable[..., Metric]) -> None:
        self._bind = bind
        self._bound: dict[tuple[str, ...], Metric] = {}

    def of(self, *values: str) -> Metric:
        """Returns the child of these labels, which is shown from then on."""
        child = self._bound.get(values)
        if child is None:
            if len(self._bound) >= MAX_LABELS:
                values = (OTHER,) * len(values)
            child = self._bound[values] = self._bind(*values)
        return child


# Dashboards and alerts select calls by these values: a renamed class keeps its value.
_OUTCOMES: dict[type[Eco2Error], str] = {
    PaidCallFailed: "NoAnswer",
    InvalidAnswer: "UnfitAnswer",
    ModelRefused: "AnswerRefused",
    ProviderTimeout: "ProviderSilent",
    ProviderAccessDenied: "ProviderClosed",
    StaleRun: "RunVoid",
}


def call_outcome(error: Eco2Error) -> str:
    """Returns the label `outcome` of a call that `error` ended: the name of its class in release 0.1."""
    return _OUTCOMES.get(type(error), type(error).__name__)


class Metrics:
    """The counts of one process, passed to every component that counts something."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._accepted = self._counter("eco2_jobs_accepted")
        self._running = self._gauge("eco2_jobs_running")
        self._job_slots = self._gauge("eco2_job_slots")
        self._runs = self._histogram("eco2_job_seconds")
        self._ended = self._counter("eco2_jobs_ended")
        self._put_off = self._counter("eco2_jobs_put_off")
        self._dead = self._counter("eco2_dead_letters")
        self._resumed = self._counter("eco2_jobs_resumed")
        self._parked = self._gauge("eco2_jobs_parked")
        self._taken_over = self._counter("eco2_jobs_taken_over")
        self._redelivered = self._counter("eco2_deliveries_redelivered")
        self._adopted = self._counter("eco2_deliveries_adopted")
        self._swept = self._counter("eco2_jobs_swept")
        self._stages = self._histogram("eco2_stage_seconds")
        self._calls = self._histogram("eco2_call_seconds")
        self._retries = self._counter("eco2_call_retries")
        self._calls_waiting = self._gauge("eco2_calls_waiting")
        self._in_flight = self._gauge("eco2_calls_in_flight")
        self._call_slots = self._gauge("eco2_call_slots")
        self._call_waits = self._histogram("eco2_call_wait_seconds")
        self._tokens = self._counter("eco2_tokens")
        self._cost = self._counter("eco2_cost_usd")
        self._breakers = self._gauge("eco2_breaker_open")
        self._openings = self._counter("eco2_breaker_openings")
        self._rate_limited = self._counter("eco2_rate_limited")
        self._grant_seconds = self._histogram("eco2_grant_seconds")
        self._grants = self._counter("eco2_quota_grants")
        self._reserved = self._gauge("eco2_quota_reserved")
        self._submissions = self._histogram("eco2_submit_seconds")
        self._refused = self._counter("eco2_requests_refused")
        self._streams = self._gauge("eco2_sse_connections")
        self._first_events = self._histogram("eco2_first_event_seconds")
        self._streams_resumed = self._counter("eco2_sse_resumed")
        self._streams_cut = self._counter("eco2_sse_cut")
        self._budgets = BudgetCollector()
        self._registry.register(self._budgets)
        self._barriers = self._plain_histogram("eco2_barrier_seconds")
        self._loop = self._plain_histogram("eco2_loop_lag_seconds")
        self._without_created = WithoutCreated(self._registry)

    # --- announced

    def process(self, role: str) -> None:
        """Shows the role and version of the process, and its use of CPU, memory and files."""
        ProcessCollector(registry=self._registry)
        self._gauge("eco2_build_info").of(eco2.__version__, role, platform.python_version()).set(1)

    def gateway(self, pipelines: Iterable[str]) -> None:
        """Announces that this process accepts jobs of these pipelines."""
        for pipeline in pipelines:
            for counter in (self._accepted, self._streams_resumed, self._streams_cut):
                counter.of(pipeline)
            for code in REFUSAL_CODES:
                self._refused.of(pipeline, code)
            self._streams.of(pipeline)
            self._submissions.of(pipeline)
            self._first_events.of(pipeline)

    def worker(self, pipelines: Iterable[str], prefetch: int) -> None:
        """Announces that this process runs up to `prefetch` jobs of each of these pipelines at once."""
        for pipeline in pipelines:
            for counter in (self._put_off, self._resumed, self._taken_over, self._redelivered, self._adopted):
                counter.of(pipeline)
            for gauge in (self._running, self._parked):
                gauge.of(pipeline)
            self._job_slots.of(pipeline).set(prefetch)
            self._ended.of(pipeline, "completed", NO_ERROR)
            for code in (*DEAD_CODES, "DEADLINE"):
                self._ended.of(pipeline, "failed", code)
            for code in DEAD_CODES:
                self._dead.of(pipeline, code)
            for what in get_args(Swept):
                self._swept.of(pipeline, what)

    def provider(self, provider: str, slots: int) -> None:
        """Announces that this process makes up to `slots` calls to the provider at once."""
        self._call_slots.of(provider).set(slots)
        self._calls_waiting.of(provider)
        self._in_flight.of(provider)
        self._breakers.of(provider)
        for why in get_args(Opening):
            self._openings.of(provider, why)
        for kind in get_args(LimitKind):
            self._rate_limited.of(provider, kind)

    # --- jobs

    def job_accepted(self, pipeline: str, seconds: float) -> None:
        """The gateway answered 202, `seconds` after the request came."""
        self._accepted.of(pipeline).inc()
        self._submissions.of(pipeline).observe(seconds)

    def request_refused(self, pipeline: str, code: str) -> None:
        """A request became no job."""
        self._refused.of(pipeline, code).inc()

    def job_started(self, pipeline: str) -> None:
        """The worker took the job from the queue."""
        self._running.of(pipeline).inc()

    def job_resumed(self, pipeline: str) -> None:
        """A run resumed after stages that an earlier run had completed."""
        self._resumed.of(pipeline).inc()

    def job_left(self, pipeline: str, outcome: str, seconds: float) -> None:
        """The worker released the job, `seconds` after its acceptance."""
        self._running.of(pipeline).dec()
        self._runs.of(pipeline, outcome).observe(seconds)

    def job_ended(self, pipeline: str, status: str, code: str | None) -> None:
        """A job ended, with that error code if it failed."""
        self._ended.of(pipeline, status, code or NO_ERROR).inc()

    def job_put_off(self, pipeline: str) -> None:
        """A stage failed, and the job will be retried later."""
        self._put_off.of(pipeline).inc()

    def dead_letter(self, pipeline: str, code: str) -> None:
        """An order went to the dead letters."""
        self._dead.of(pipeline, code).inc()

    def job_parked(self, pipeline: str) -> AbstractContextManager[None]:
        """A job waits for its holder while the block runs."""
        return self._parked.of(pipeline).track_inprogress()

    def job_taken_over(self, pipeline: str) -> None:
        """A job's holder was silent, and this worker took the job over."""
        self._taken_over.of(pipeline).inc()

    def delivery_adopted(self, pipeline: str) -> None:
        """A job that runs here was delivered again."""
        self._adopted.of(pipeline).inc()

    def delivery_redelivered(self, pipeline: str) -> None:
        """The broker delivered a message that it may have delivered before."""
        self._redelivered.of(pipeline).inc()

    def job_swept(self, pipeline: str, what: Swept) -> None:
        """The sweep ended a job or ordered it again."""
        self._swept.of(pipeline, what).inc()

    # --- stages and calls

    def stage_ended(self, pipeline: str, stage: str, status: str, seconds: float) -> None:
        """A stage completed or failed after `seconds`."""
        self._stages.of(pipeline, stage, status).observe(seconds)

    def call_waiting(self, provider: str) -> AbstractContextManager[None]:
        """A call waits for a slot and a grant while the block runs."""
        return self._calls_waiting.of(provider).track_inprogress()

    def call_in_flight(self, provider: str) -> AbstractContextManager[None]:
        """A call is at the provider while the block runs."""
        return self._in_flight.of(provider).track_inprogress()

    def call_ended(self, kind: str, model: str, outcome: str, seconds: float, usage: Usage | None) -> None:
        """A model call ended after `seconds`; `usage` if it was paid for."""
        self._calls.of(kind, model, outcome).observe(seconds)
        if usage is not None:
            self._tokens.of(kind, model, "input").inc(usage.input_tokens)
            self._tokens.of(kind, model, "cached").inc(usage.cached_tokens)
            self._tokens.of(kind, model, "output").inc(usage.output_tokens)
            if usage.cost is not None:
                self._cost.of(kind, model).inc(float(usage.cost))

    def call_retried(self, kind: str) -> None:
        """A call failed and is retried at once."""
        self._retries.of(kind).inc()

    def breaker(self, provider: str, *, closed: bool) -> None:
        """The breaker of a provider is closed, or not."""
        self._breakers.of(provider).set(not closed)

    def breaker_opened(self, provider: str, why: Opening) -> None:
        """The breaker of a provider opened, or a failed trial call kept it open."""
        self._openings.of(provider, why).inc()

    def rate_limited(self, provider: str, kind: LimitKind) -> None:
        """The provider answered 429."""
        self._rate_limited.of(provider, kind).inc()

    # --- budget

    def call_waited(self, provider: str, seconds: float) -> None:
        """A call could be sent after `seconds`."""
        self._call_waits.of(provider).observe(seconds)

    def call_granted(self, provider: str, seconds: float) -> None:
        """A call got its grant after `seconds`."""
        self._grant_seconds.of(provider).observe(seconds)

    def reserved(self, provider: str, requests: float, tokens: float) -> None:
        """Adds to the part of the budget that calls of this process hold; negative: returns."""
        self._reserved.of(provider, "requests").inc(requests)
        self._reserved.of(provider, "tokens").inc(tokens)

    def grant_ended(self, provider: str, outcome: GrantOutcome) -> None:
        """A grant was used, expired, or was refunded because the call was not made."""
        self._grants.of(provider, outcome).inc()

    # --- event streams

    def stream_open(self, pipeline: str) -> AbstractContextManager[None]:
        """An event stream is open while the block runs."""
        return self._streams.of(pipeline).track_inprogress()

    def first_event(self, pipeline: str, seconds: float) -> None:
        """A new client received its first event, `seconds` after its request."""
        self._first_events.of(pipeline).observe(seconds)

    def stream_resumed(self, pipeline: str) -> None:
        """A client resumed its event stream after the last event that it had seen."""
        self._streams_resumed.of(pipeline).inc()

    def stream_cut(self, pipeline: str) -> None:
        """A client read nothing for too long and was disconnected."""
        self._streams_cut.of(pipeline).inc()

    # --- the process

    def barrier_passed(self, seconds: float) -> None:
        """A marker went to the journal and came back."""
        self._barriers.observe(seconds)

    def loop_late(self, seconds: float) -> None:
        """The event loop woke a sleeping task `seconds` late."""
        self._loop.observe(seconds)

    # --- asked at each scrape

    def show_budget(self, provider: str, status: Callable[[], BudgetSource | None]) -> None:
        """Shows the state of the provider's budget while this process leads it."""
        self._budgets.statuses[provider] = status

    def show_spending(self, limit: float, spent: Callable[[], float]) -> None:
        """Shows the USD spent today and the daily limit."""
        self._registry.register(SpendingCollector(limit, spent))

    def show_journal(self, pipelines: Iterable[str], status: Callable[[], JournalSource]) -> None:
        """Shows by how much this process lags behind the journal, and the backlog of these pipelines."""
        self._registry.register(JournalCollector(tuple(pipelines), status))

    def show_presence(self, presence: PresenceSource) -> None:
        """Shows the workers whose presence this process receives, and its clock against theirs."""
        self._registry.register(PresenceCollector(presence))

    def show_broker(self, links: Callable[[], Iterable[LinkSource]], blocked: Callable[[], bool]) -> None:
        """Shows the connections to the broker."""
        self._registry.register(BrokerCollector(links, blocked))

    def show_queues(self, depths: Callable[[], dict[str, int]]) -> None:
        """Shows the number of messages by queue, as far as this process knows."""
        self._registry.register(QueueCollector(depths))

    def render(self) -> bytes:
        """All series in Prometheus' text format (`content_type`)."""
        return generate_latest(self._without_created)

    # --- made from the table

    def _counter(self, name: str) -> LabelCache[Counter]:
        series = SERIES[name]
        return LabelCache(Counter(name, series.help, series.labels, registry=self._registry).labels)

    def _gauge(self, name: str) -> LabelCache[Gauge]:
        series = SERIES[name]
        return LabelCache(Gauge(name, series.help, series.labels, registry=self._registry).labels)

    def _histogram(self, name: str) -> LabelCache[Histogram]:
        series = SERIES[name]
        return LabelCache(
            Histogram(name, series.help, series.labels, registry=self._registry, buckets=series.bounds).labels
        )

    def _plain_histogram(self, name: str) -> Histogram:
        series = SERIES[name]
        return Histogram(name, series.help, registry=self._registry, buckets=series.bounds)
