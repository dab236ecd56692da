"""Counts for Prometheus: one object per process, with its own registry and nothing global.

Methods are named by the event that they count; no other module knows series or labels. Hot ones cost two
look-ups and an addition. A process announces first what it will count (`gateway`, `worker`, `provider`), so
that its series start at 0: Prometheus cannot see the increase of a series that did not exist before.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, ParamSpec, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

import eco2
from eco2.call import InvalidAnswer, ModelRefused, PaidCallFailed, Usage
from eco2.errors import Eco2Error, LimitKind, ProviderAccessDenied, ProviderTimeout, StaleRun
from eco2.job import PRIORITIES, Priority
from eco2.journal.journal import Status as JournalStatus
from eco2.journal.presence import Presence
from eco2.metrics import collectors
from eco2.metrics.collectors import BudgetCollector, Families, Scraped, WithoutCreated
from eco2.metrics.series import Series, all_series
from eco2.ports import LinkStatus
from eco2.quota.member import Status as BudgetStatus

P = ParamSpec("P")

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


class LabelCache:
    """The children of one series by their labels, each bound once; their number is bounded."""

    def __init__(self, family: Any) -> None:
        self._family = family
        self._bound: dict[tuple[str, ...], Any] = {}

    def of(self, *values: str) -> Any:
        """Returns the child of these labels, shown from then on; without labels the series itself."""
        if not values:
            return self._family
        child = self._bound.get(values)
        if child is None:
            if len(self._bound) >= MAX_LABELS:
                values = (OTHER,) * len(values)
            child = self._bound[values] = self._family.labels(*values)
        return child


def make_family(series: Series, registry: CollectorRegistry) -> Counter | Gauge | Histogram:
    """Makes the series in `registry`."""
    match series.kind:
        case "counter":
            return Counter(series.name, series.help, series.labels, registry=registry)
        case "gauge":
            return Gauge(series.name, series.help, series.labels, registry=registry)
        case "histogram":
            return Histogram(
                series.name, series.help, series.labels, registry=registry, buckets=series.bounds
            )


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
        self._families = {
            series.name: LabelCache(make_family(series, self._registry))
            for series in all_series().values()
            if not series.scraped
        }
        self._budgets = BudgetCollector()
        self._registry.register(self._budgets)
        self._without_created = WithoutCreated(self._registry)

    # --- announced

    def process(self, role: str) -> None:
        """Shows the role and version of the process, and its use of CPU, memory and files."""
        ProcessCollector(registry=self._registry)
        self._gauge("eco2_build_info", eco2.__version__, role, platform.python_version()).set(1)
        self._counter("eco2_loop_blocked", "", "")

    def gateway(self, pipelines: Iterable[str]) -> None:
        """Announces that this process accepts jobs of these pipelines."""
        for pipeline in pipelines:
            for counter in ("eco2_jobs_accepted", "eco2_sse_resumed", "eco2_sse_cut"):
                self._counter(counter, pipeline)
            for code in REFUSAL_CODES:
                self._counter("eco2_requests_refused", pipeline, code)
            self._gauge("eco2_sse_connections", pipeline)
            self._histogram("eco2_submit_seconds", pipeline)
            self._histogram("eco2_first_event_seconds", pipeline)

    def worker(self, pipelines: Iterable[str], prefetch: int) -> None:
        """Announces that this process runs up to `prefetch` jobs of each pipeline and priority at once."""
        for pipeline in pipelines:
            for counter in ("eco2_jobs_put_off", "eco2_jobs_resumed", "eco2_jobs_taken_over"):
                self._counter(counter, pipeline)
            for counter in ("eco2_deliveries_redelivered", "eco2_deliveries_adopted"):
                self._counter(counter, pipeline)
            for priority in PRIORITIES:
                self._gauge("eco2_jobs_running", pipeline, priority)
                self._gauge("eco2_job_slots", pipeline, priority).set(prefetch)
            self._gauge("eco2_jobs_parked", pipeline)
            self._counter("eco2_jobs_ended", pipeline, "completed", NO_ERROR)
            for code in (*DEAD_CODES, "EXPIRED", "TIMEOUT"):
                self._counter("eco2_jobs_ended", pipeline, "failed", code)
            for code in DEAD_CODES:
                self._counter("eco2_dead_letters", pipeline, code)
            for what in get_args(Swept):
                self._counter("eco2_jobs_swept", pipeline, what)

    def stages(self, pipeline: str, stages: Iterable[str]) -> None:
        """Announces that this process runs these stages."""
        for stage in stages:
            self._counter("eco2_loop_blocked", pipeline, stage)

    def provider(self, provider: str, slots: int) -> None:
        """Announces that this process makes up to `slots` calls to the provider at once."""
        self._gauge("eco2_call_slots", provider).set(slots)
        for gauge in ("eco2_calls_waiting", "eco2_calls_in_flight", "eco2_breaker_open"):
            self._gauge(gauge, provider)
        for why in get_args(Opening):
            self._counter("eco2_breaker_openings", provider, why)
        for kind in get_args(LimitKind):
            self._counter("eco2_rate_limited", provider, kind)

    # --- jobs

    def job_accepted(self, pipeline: str, seconds: float) -> None:
        """The gateway answered 202, `seconds` after the request came."""
        self._counter("eco2_jobs_accepted", pipeline).inc()
        self._histogram("eco2_submit_seconds", pipeline).observe(seconds)

    def request_refused(self, pipeline: str, code: str) -> None:
        """A request became no job."""
        self._counter("eco2_requests_refused", pipeline, code).inc()

    def job_started(self, pipeline: str, priority: Priority) -> None:
        """The worker took the job from the queue."""
        self._gauge("eco2_jobs_running", pipeline, priority).inc()

    def job_resumed(self, pipeline: str) -> None:
        """A run resumed after stages that an earlier run had completed."""
        self._counter("eco2_jobs_resumed", pipeline).inc()

    def job_left(self, pipeline: str, priority: Priority, outcome: str, seconds: float) -> None:
        """The worker released the job, `seconds` after its acceptance."""
        self._gauge("eco2_jobs_running", pipeline, priority).dec()
        self._histogram("eco2_job_seconds", pipeline, outcome).observe(seconds)

    def job_ended(self, pipeline: str, status: str, code: str | None) -> None:
        """A job ended, with that error code if it failed."""
        self._counter("eco2_jobs_ended", pipeline, status, code or NO_ERROR).inc()

    def job_put_off(self, pipeline: str) -> None:
        """A stage failed, and the job will be retried later."""
        self._counter("eco2_jobs_put_off", pipeline).inc()

    def dead_letter(self, pipeline: str, code: str) -> None:
        """An order went to the dead letters."""
        self._counter("eco2_dead_letters", pipeline, code).inc()

    @contextmanager
    def job_parked(self, pipeline: str) -> Iterator[None]:
        """A job waits for its holder while the block runs."""
        with self._gauge("eco2_jobs_parked", pipeline).track_inprogress():
            yield

    def job_taken_over(self, pipeline: str) -> None:
        """A job's holder was silent, and this worker took the job over."""
        self._counter("eco2_jobs_taken_over", pipeline).inc()

    def delivery_adopted(self, pipeline: str) -> None:
        """A job that runs here was delivered again."""
        self._counter("eco2_deliveries_adopted", pipeline).inc()

    def delivery_redelivered(self, pipeline: str) -> None:
        """The broker delivered a message that it may have delivered before."""
        self._counter("eco2_deliveries_redelivered", pipeline).inc()

    def job_swept(self, pipeline: str, what: Swept) -> None:
        """The sweep ended a job or ordered it again."""
        self._counter("eco2_jobs_swept", pipeline, what).inc()

    # --- stages and calls

    def stage_ended(self, pipeline: str, stage: str, status: str, seconds: float) -> None:
        """A stage completed or failed after `seconds`."""
        self._histogram("eco2_stage_seconds", pipeline, stage, status).observe(seconds)

    @contextmanager
    def call_waiting(self, provider: str) -> Iterator[None]:
        """A call waits for a slot and a grant while the block runs."""
        with self._gauge("eco2_calls_waiting", provider).track_inprogress():
            yield

    @contextmanager
    def call_in_flight(self, provider: str) -> Iterator[None]:
        """A call is at the provider while the block runs."""
        with self._gauge("eco2_calls_in_flight", provider).track_inprogress():
            yield

    def call_ended(self, kind: str, model: str, outcome: str, seconds: float, usage: Usage | None) -> None:
        """A model call ended after `seconds`; `usage` if it was paid for."""
        self._histogram("eco2_call_seconds", kind, model, outcome).observe(seconds)
        if usage is not None:
            self._counter("eco2_tokens", kind, model, "input").inc(usage.input_tokens)
            self._counter("eco2_tokens", kind, model, "cached").inc(usage.cached_tokens)
            self._counter("eco2_tokens", kind, model, "output").inc(usage.output_tokens)
            if usage.cost is not None:
                self._counter("eco2_cost_usd", kind, model).inc(float(usage.cost))

    def call_retried(self, kind: str) -> None:
        """A call failed and is retried at once."""
        self._counter("eco2_call_retries", kind).inc()

    def breaker(self, provider: str, *, closed: bool) -> None:
        """The breaker of a provider is closed, or not."""
        self._gauge("eco2_breaker_open", provider).set(not closed)

    def breaker_opened(self, provider: str, why: Opening) -> None:
        """The breaker of a provider opened, or a failed trial call kept it open."""
        self._counter("eco2_breaker_openings", provider, why).inc()

    def rate_limited(self, provider: str, kind: LimitKind) -> None:
        """The provider answered 429."""
        self._counter("eco2_rate_limited", provider, kind).inc()

    # --- budget

    def call_waited(self, provider: str, priority: Priority, seconds: float) -> None:
        """A call could be sent after `seconds`."""
        self._histogram("eco2_call_wait_seconds", provider, priority).observe(seconds)

    def call_granted(self, provider: str, priority: Priority, seconds: float) -> None:
        """A call got its grant after `seconds`."""
        self._histogram("eco2_grant_seconds", provider, priority).observe(seconds)

    def reserved(self, provider: str, requests: float, tokens: float) -> None:
        """Adds to the part of the budget that calls of this process hold; negative: returns."""
        self._gauge("eco2_quota_reserved", provider, "requests").inc(requests)
        self._gauge("eco2_quota_reserved", provider, "tokens").inc(tokens)

    def grant_ended(self, provider: str, outcome: GrantOutcome, number: int = 1) -> None:
        """A `number` of grants were used, expired, or were refunded because the call was not made."""
        self._counter("eco2_quota_grants", provider, outcome).inc(number)

    # --- event streams

    @contextmanager
    def stream_open(self, pipeline: str) -> Iterator[None]:
        """An event stream is open while the block runs."""
        with self._gauge("eco2_sse_connections", pipeline).track_inprogress():
            yield

    def first_event(self, pipeline: str, seconds: float) -> None:
        """A new client received its first event, `seconds` after its request."""
        self._histogram("eco2_first_event_seconds", pipeline).observe(seconds)

    def stream_resumed(self, pipeline: str) -> None:
        """A client resumed its event stream after the last event that it had seen."""
        self._counter("eco2_sse_resumed", pipeline).inc()

    def stream_cut(self, pipeline: str) -> None:
        """A client read nothing for too long and was disconnected."""
        self._counter("eco2_sse_cut", pipeline).inc()

    # --- the process

    def barrier_passed(self, seconds: float) -> None:
        """A marker went to the journal and came back."""
        self._histogram("eco2_barrier_seconds").observe(seconds)

    def loop_late(self, seconds: float) -> None:
        """The event loop woke a sleeping task `seconds` late."""
        self._histogram("eco2_loop_lag_seconds").observe(seconds)

    def loop_blocked(self, pipeline: str, stage: str) -> None:
        """A stage blocked the event loop for long; both are "" where it was no stage."""
        self._counter("eco2_loop_blocked", pipeline, stage).inc()

    # --- asked at each scrape

    def show_budget(self, provider: str, status: Callable[[], BudgetStatus | None]) -> None:
        """Shows the state of the provider's budget while this process leads it."""
        self._budgets.statuses[provider] = status

    def show_spending(self, limit: float, spent: Callable[[], float]) -> None:
        """Shows the USD spent today and the daily limit."""
        self._show(collectors.spending, limit, spent)

    def show_journal(self, pipelines: Iterable[str], status: Callable[[], JournalStatus]) -> None:
        """Shows by how much this process lags behind the journal, and the backlog of these pipelines."""
        self._show(collectors.journal, tuple(pipelines), status)

    def show_presence(self, presence: Presence) -> None:
        """Shows the workers whose presence this process receives, and its clock against theirs."""
        self._show(collectors.presence, presence)

    def show_broker(self, links: Callable[[], Iterable[LinkStatus]], blocked: Callable[[], bool]) -> None:
        """Shows the connections to the broker."""
        self._show(collectors.broker, links, blocked)

    def show_queues(self, depths: Callable[[], dict[str, int]]) -> None:
        """Shows the number of messages by queue, as far as this process knows."""
        self._show(collectors.queues, depths)

    def _show(self, read: Callable[P, Families], *args: P.args, **kwargs: P.kwargs) -> None:
        self._registry.register(Scraped(partial(read, *args, **kwargs)))

    def render(self) -> bytes:
        """All series in Prometheus' text format (`content_type`)."""
        return generate_latest(self._without_created)

    # --- made from the table

    def _counter(self, name: str, *labels: str) -> Counter:
        child: Counter = self._families[name].of(*labels)
        return child

    def _gauge(self, name: str, *labels: str) -> Gauge:
        child: Gauge = self._families[name].of(*labels)
        return child

    def _histogram(self, name: str, *labels: str) -> Histogram:
        child: Histogram = self._families[name].of(*labels)
        return child
