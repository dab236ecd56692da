"""Series that nobody counts: at each scrape their source is asked how things stand.

Sources are plain values with the properties named here; the layers above implement them.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from eco2.metrics.series import SERIES
from eco2.pacer import Limits

Families = Iterator[GaugeMetricFamily | CounterMetricFamily]


class Budget(Protocol):
    """What a leader knows (`eco2.quota.term.Status`)."""

    @property
    def epoch(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def used(self) -> Limits: ...
    @property
    def assumed(self) -> Limits: ...
    @property
    def waiting(self) -> int: ...
    @property
    def factor(self) -> float: ...


class Backlog(Protocol):
    """Of one pipeline (`eco2.journal.backlog.Backlog`)."""

    @property
    def jobs(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def oldest(self) -> float: ...


class JournalStatus(Protocol):
    """How a process stands to the journal (`eco2.journal.journal.Status`). Times are seconds."""

    @property
    def jobs(self) -> int: ...
    @property
    def lag(self) -> float: ...
    @property
    def unconfirmed(self) -> float: ...
    @property
    def behind(self) -> float: ...
    @property
    def replaced(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def paused(self) -> bool: ...
    @property
    def backlog(self) -> Mapping[str, Backlog]: ...


class Link(Protocol):
    """A connection to the broker (`eco2.ports.LinkStatus`)."""

    @property
    def name(self) -> str: ...
    @property
    def up(self) -> bool: ...
    @property
    def reconnects(self) -> int: ...


class Presence(Protocol):
    """What a process knows of the others (`eco2.journal.presence.Presence`)."""

    @property
    def ahead(self) -> float: ...
    @property
    def pipelines(self) -> tuple[str, ...]: ...
    def workers(self) -> Mapping[str, int]: ...


class Budgets(Collector):
    """Series of the budgets that this process leads; of all processes together there is one of each.

    A term is counted when it is scraped first: one that falls between two scrapes is missed.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, Callable[[], Budget | None]] = {}
        self._epochs: dict[str, str] = {}
        self._terms: dict[str, int] = {}

    def collect(self) -> Families:
        leader, limit, used, assumed, waiting, factor = (
            _gauge(f"eco2_quota_{name}")
            for name in ("leader", "limit", "used", "assumed", "waiting", "factor")
        )
        terms = _counter("eco2_quota_terms")
        for provider, ask in self.statuses.items():
            status = ask()
            leader.add_metric([provider], float(status is not None))
            terms.add_metric([provider], self._counted(provider, status))
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

    def _counted(self, provider: str, status: Budget | None) -> int:
        if status is not None and self._epochs.get(provider) != status.epoch:
            self._epochs[provider] = status.epoch
            self._terms[provider] = self._terms.get(provider, 0) + 1
        return self._terms.get(provider, 0)


class Spending(Collector):
    def __init__(self, limit: float, spent: Callable[[], float]) -> None:
        self._limit = limit
        self._spent = spent

    def collect(self) -> Families:
        yield _gauge("eco2_daily_limit_usd", self._limit)
        yield _gauge("eco2_spent_today_usd", self._spent())


class JournalSeries(Collector):
    """The backlog of `pipelines`, 0 where there is none; those of others are other processes' matter."""

    def __init__(self, pipelines: tuple[str, ...], status: Callable[[], JournalStatus]) -> None:
        self._pipelines = pipelines
        self._status = status

    def collect(self) -> Families:
        status = self._status()
        yield _gauge("eco2_view_jobs", status.jobs)
        yield _gauge("eco2_view_lag_seconds", status.lag)
        yield _gauge("eco2_outbox_oldest_seconds", status.unconfirmed)
        yield _gauge("eco2_tail_behind_seconds", status.behind)
        yield _gauge("eco2_intake_paused", float(status.paused))
        replaced = _counter("eco2_journal_replaced")
        replaced.add_metric([], status.replaced)
        yield replaced
        skipped = _counter("eco2_journal_skipped")
        skipped.add_metric([], status.skipped)
        yield skipped
        backlog, waiting, oldest = map(
            _gauge, ("eco2_jobs_backlog", "eco2_jobs_waiting", "eco2_jobs_oldest_waiting_seconds")
        )
        for pipeline in self._pipelines:
            found = status.backlog.get(pipeline)
            backlog.add_metric([pipeline], found.jobs if found else 0)
            waiting.add_metric([pipeline], found.waiting if found else 0)
            oldest.add_metric([pipeline], found.oldest if found else 0.0)
        yield from (backlog, waiting, oldest)


class PresenceSeries(Collector):
    """Workers by pipeline, 0 for one of this process's own that none serves, and the own clock."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence

    def collect(self) -> Families:
        workers = _gauge("eco2_pipeline_workers")
        served = self._presence.workers()
        for pipeline in sorted({*self._presence.pipelines, *served}):
            workers.add_metric([pipeline], served.get(pipeline, 0))
        yield workers
        yield _gauge("eco2_clock_ahead_seconds", self._presence.ahead)


class BrokerSeries(Collector):
    def __init__(self, links: Callable[[], Iterable[Link]], blocked: Callable[[], bool]) -> None:
        self._links = links
        self._blocked = blocked

    def collect(self) -> Families:
        up, reconnects = _gauge("eco2_broker_up"), _counter("eco2_broker_reconnects")
        for link in self._links():
            up.add_metric([link.name], float(link.up))
            reconnects.add_metric([link.name], link.reconnects)
        yield from (up, reconnects, _gauge("eco2_broker_blocked", float(self._blocked())))


class Queues(Collector):
    def __init__(self, depths: Callable[[], Mapping[str, int]]) -> None:
        self._depths = depths

    def collect(self) -> Families:
        messages = _gauge("eco2_queue_messages")
        for queue, count in self._depths().items():
            messages.add_metric([queue], count)
        yield messages


class Uncreated(CollectorRegistry):
    """What `registry` holds, without the times at which each series was made: they double the page, and
    Prometheus does not use them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._whole = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._whole.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def _gauge(name: str, value: float | None = None) -> GaugeMetricFamily:
    series = SERIES[name]
    return GaugeMetricFamily(name, series.help, value, labels=series.labels or None)


def _counter(name: str) -> CounterMetricFamily:
    return CounterMetricFamily(name, SERIES[name].help, labels=SERIES[name].labels)
