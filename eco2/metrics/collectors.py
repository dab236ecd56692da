"""Collectors of the series that are not counted but read from their source at each scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eco2.job import PRIORITIES
from eco2.journal.journal import Status as JournalStatus
from eco2.journal.presence import Presence
from eco2.metrics.series import all_series
from eco2.ports import LinkStatus
from eco2.quota.member import Status as BudgetStatus

Families = Iterator[GaugeMetricFamily | CounterMetricFamily]


class BudgetCollector(Collector):
    """Series of the budgets that this process leads; each budget has one leader.

    An epoch is counted when it is first scraped: one that falls between two scrapes is missed.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, Callable[[], BudgetStatus | None]] = {}
        self._epochs: dict[str, str] = {}
        self._terms: dict[str, int] = {}

    def collect(self) -> Families:
        leader, limit, used, assumed, waiting, factor = (
            _gauge(f"eco2_quota_{name}")
            for name in ("leader", "limit", "used", "assumed", "waiting", "factor")
        )
        terms = _counter("eco2_quota_terms")
        for provider, read_status in self.statuses.items():
            status = read_status()
            leader.add_metric([provider], float(status is not None))
            if status is not None and self._epochs.get(provider) != status.epoch:
                self._epochs[provider] = status.epoch
                self._terms[provider] = self._terms.get(provider, 0) + 1
            terms.add_metric([provider], self._terms.get(provider, 0))
            if status is None:
                continue
            waiting.add_metric([provider], status.waiting)
            factor.add_metric([provider], status.factor)
            shown = ((limit, status.limits), (used, status.used), (assumed, status.assumed))
            for family, amounts in shown:
                for what, amount in (("requests", amounts.requests), ("tokens", amounts.tokens)):
                    if amount is not None:
                        family.add_metric([provider, what], amount)
        yield from (leader, terms, limit, used, assumed, waiting, factor)


class Scraped(Collector):
    """The series that `read` makes at each scrape: one of the functions below."""

    def __init__(self, read: Callable[[], Families]) -> None:
        self._read = read

    def collect(self) -> Families:
        """Called by the registry."""
        return self._read()


def spending(limit: float, spent: Callable[[], float]) -> Families:
    """Yields the USD spent today and the daily limit."""
    yield _gauge("eco2_daily_limit_usd", limit)
    yield _gauge("eco2_spent_today_usd", spent())


def journal(pipelines: tuple[str, ...], read_status: Callable[[], JournalStatus]) -> Families:
    """Yields the state of the journal client, and the backlog of `pipelines` (0 where there is none)."""
    status = read_status()
    yield _gauge("eco2_view_jobs", status.jobs)
    yield _gauge("eco2_view_lag_seconds", status.lag)
    yield _gauge("eco2_outbox_oldest_seconds", status.unconfirmed)
    yield _gauge("eco2_tail_behind_seconds", status.behind)
    if status.snapshot_age is not None:
        yield _gauge("eco2_snapshot_age_seconds", status.snapshot_age)
    yield _gauge("eco2_intake_paused", float(status.paused))
    yield _counter("eco2_journal_replaced", status.replaced)
    yield _counter("eco2_journal_skipped", status.skipped)
    backlog, waiting, oldest = map(
        _gauge, ("eco2_jobs_backlog", "eco2_jobs_waiting", "eco2_jobs_oldest_waiting_seconds")
    )
    for pipeline in pipelines:
        jobs = status.backlog.get(pipeline)
        backlog.add_metric([pipeline], jobs.jobs if jobs else 0)
        waiting.add_metric([pipeline], jobs.waiting if jobs else 0)
        for priority in PRIORITIES:
            oldest.add_metric([pipeline, priority], jobs.oldest.get(priority, 0.0) if jobs else 0.0)
    yield from (backlog, waiting, oldest)


def presence(source: Presence) -> Families:
    """Yields workers by pipeline (0 for one of this process without any), and the clock's offset."""
    workers = _gauge("eco2_pipeline_workers")
    served = source.workers()
    for pipeline in sorted({*source.pipelines, *served}):
        workers.add_metric([pipeline], served.get(pipeline, 0))
    yield workers
    yield _gauge("eco2_clock_ahead_seconds", source.ahead)


def broker(links: Callable[[], Iterable[LinkStatus]], blocked: Callable[[], bool]) -> Families:
    """Yields the connections to the broker, and its alarms."""
    up, reconnects = _gauge("eco2_broker_up"), _counter("eco2_broker_reconnects")
    for link in links():
        up.add_metric([link.name], float(link.up))
        reconnects.add_metric([link.name], link.reconnects)
    yield from (up, reconnects, _gauge("eco2_broker_blocked", float(blocked())))


def queues(depths: Callable[[], Mapping[str, int]]) -> Families:
    """Yields the messages by queue."""
    messages = _gauge("eco2_queue_messages")
    for queue, count in depths().items():
        messages.add_metric([queue], count)
    yield messages


class WithoutCreated(CollectorRegistry):
    """A registry's series without their creation times.

    These double the size of the page, and Prometheus does not use them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._whole = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _gauge(name: str, value: float | None = None) -> GaugeMetricFamily:
    series = all_series()[name]
    return GaugeMetricFamily(name, series.help, value, labels=series.labels or None)


def _counter(name: str, value: float | None = None) -> CounterMetricFamily:
    series = all_series()[name]
    return CounterMetricFamily(name, series.help, value, labels=series.labels or None)
