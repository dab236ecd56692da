"""Every series of Eco² in one table: name, kind, labels, bounds, who shows it and what it means.

Labels take values from small sets only (pipelines, stages, statuses, models), never ids, so the number of
series does not grow with jobs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Shower = Literal["gateway", "worker", "each", "leader"]
"""Which processes show a series. `leader`: of the workers, the one that is elected for it."""

WAITS = (0.002, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
"""Bounds of waits: from a budget with room to one that binds."""
GRANTS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120)
"""Bounds of what a grant takes: from a reply at once to a budget that binds."""
SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180)
"""Bounds of the histograms: from a table look-up to the longest life of a job."""
MOMENTS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""Bounds of what should take milliseconds: a first event, an acceptance, a barrier, the loop."""

WHOLE = "Every process shows the whole: take the max over instances, never the sum."


@dataclass(frozen=True, slots=True)
class Series:
    """`name`: without the `_total` that counters get. `by`: who shows it. `bounds`: of a histogram."""

    name: str
    kind: Kind
    by: Shower
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def shown_as(self) -> str:
        """The name in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def counter(name: str, by: Shower, text: str, *labels: str) -> Series:
    return Series(name, "counter", by, text, labels)


def gauge(name: str, by: Shower, text: str, *labels: str) -> Series:
    return Series(name, "gauge", by, text, labels)


def histogram(name: str, by: Shower, text: str, *labels: str, bounds: tuple[float, ...]) -> Series:
    return Series(name, "histogram", by, text, labels, bounds)


JOBS = (
    counter("eco2_jobs_accepted", "gateway", "Jobs answered with 202.", "pipeline"),
    gauge("eco2_jobs_backlog", "each", f"Jobs accepted and not ended. {WHOLE}", "pipeline"),
    gauge(
        "eco2_jobs_waiting",
        "each",
        f"Of the backlog, jobs that no worker is at: not begun, given back, or put off. {WHOLE}",
        "pipeline",
    ),
    gauge(
        "eco2_jobs_oldest_waiting_seconds",
        "each",
        f"Age since acceptance of the oldest job that no worker is at; 0 without one. {WHOLE}",
        "pipeline",
    ),
    gauge("eco2_jobs_running", "worker", "Jobs that this worker holds, parked ones included.", "pipeline"),
    gauge("eco2_job_slots", "worker", "Jobs that this worker takes at once, its prefetch.", "pipeline"),
    histogram(
        "eco2_job_seconds",
        "worker",
        "From acceptance to the end of a worker's run, by outcome of the run.",
        "pipeline",
        "status",
        bounds=SECONDS,
    ),
    counter(
        "eco2_jobs_ended",
        "worker",
        "Jobs that came to their end here, by status and error code (OK where there was no error).",
        "pipeline",
        "status",
        "code",
    ),
    counter(
        "eco2_jobs_put_off", "worker", "Jobs put off until a later retry, after a stage failed.", "pipeline"
    ),
    counter("eco2_dead_letters", "worker", "Orders sent to the dead letters.", "pipeline", "code"),
    counter(
        "eco2_jobs_resumed",
        "worker",
        "Runs that went on behind stages which were completed before.",
        "pipeline",
    ),
    gauge("eco2_jobs_parked", "worker", "Jobs that wait here for the worker that holds them.", "pipeline"),
    counter("eco2_jobs_taken_over", "worker", "Jobs whose holder was silent for too long.", "pipeline"),
    counter(
        "eco2_deliveries_redelivered",
        "worker",
        "Deliveries that the broker may have handed out before.",
        "pipeline",
    ),
    counter(
        "eco2_deliveries_adopted",
        "worker",
        "Deliveries of a job that was at work here already.",
        "pipeline",
    ),
    counter(
        "eco2_jobs_swept",
        "worker",
        "Jobs that the sweep ended past their deadline, or ordered again.",
        "pipeline",
        "what",
    ),
    gauge(
        "eco2_queue_messages",
        "leader",
        "Messages of a queue that nobody holds, as the sweep saw last; in dead those that operators hold "
        "are missing.",
        "queue",
    ),
    gauge(
        "eco2_pipeline_workers",
        "each",
        f"Workers that serve the pipeline, as this process heard in the last 12 s. {WHOLE}",
        "pipeline",
    ),
    gauge("eco2_intake_paused", "each", "1 while an operator has paused the intake."),
)

CALLS = (
    histogram(
        "eco2_stage_seconds",
        "worker",
        "Duration of a stage in one run.",
        "pipeline",
        "stage",
        "status",
        bounds=SECONDS,
    ),
    histogram(
        "eco2_call_seconds",
        "worker",
        "Duration of one model call, from its sending to its last byte.",
        "kind",
        "model",
        "outcome",
        bounds=SECONDS,
    ),
    counter("eco2_call_retries", "worker", "Calls tried again at once, by kind of call.", "kind"),
    gauge("eco2_calls_waiting", "worker", "Calls that wait for a slot and their share.", "provider"),
    gauge("eco2_calls_in_flight", "worker", "Calls that this worker has at the provider.", "provider"),
    gauge("eco2_call_slots", "worker", "Calls that this worker may have at the provider.", "provider"),
    histogram(
        "eco2_call_wait_seconds",
        "worker",
        "From a call that could be sent to its turn: a slot, a grant of the budget, the fence.",
        "provider",
        bounds=WAITS,
    ),
    counter(
        "eco2_tokens",
        "worker",
        "Tokens that model calls were charged for. Cached ones are part of the input.",
        "kind",
        "model",
        "direction",
    ),
    counter(
        "eco2_cost_usd",
        "worker",
        "USD that model calls cost by list price; calls of models without a known price are not in it.",
        "kind",
        "model",
    ),
    gauge("eco2_breaker_open", "worker", "1 while the provider counts as down.", "provider"),
    counter(
        "eco2_breaker_openings",
        "worker",
        "Times that the breaker opened, or a call that went ahead kept it open: the provider was down, or "
        "refused all our calls (key, quota).",
        "provider",
        "why",
    ),
    counter("eco2_rate_limited", "worker", "429 answers, by the limit that was met.", "provider", "kind"),
)

BUDGET = (
    gauge("eco2_quota_leader", "worker", "1 where this process grants the provider's budget.", "provider"),
    counter("eco2_quota_terms", "worker", "Terms that this process began.", "provider"),
    gauge(
        "eco2_quota_limit", "leader", "What may be used in a minute, before the factor.", "provider", "what"
    ),
    gauge("eco2_quota_used", "leader", "What was granted in the last minute.", "provider", "what"),
    gauge(
        "eco2_quota_assumed",
        "leader",
        "What earlier leaders may have granted in the last minute besides; it is kept free, and fades.",
        "provider",
        "what",
    ),
    gauge(
        "eco2_quota_waiting",
        "leader",
        "Calls that wait for a grant at the leader; of each worker at most those 32 that go first.",
        "provider",
    ),
    gauge("eco2_quota_factor", "leader", "Share of the limit that is used, after 429 answers.", "provider"),
    histogram(
        "eco2_grant_seconds",
        "worker",
        "From asking for a share of the budget to the grant.",
        "provider",
        bounds=GRANTS,
    ),
    counter(
        "eco2_quota_grants",
        "worker",
        "Grants that this process got, by what became of them: refunded ones were not needed any more.",
        "provider",
        "outcome",
    ),
    gauge(
        "eco2_quota_reserved",
        "worker",
        "What calls of this process hold of the budget, from their grant to their end.",
        "provider",
        "what",
    ),
    gauge("eco2_daily_limit_usd", "each", "What may be paid for models in a day (UTC)."),
    gauge("eco2_spent_today_usd", "each", f"What was paid for models today (UTC), by list price. {WHOLE}"),
)

GATEWAY = (
    histogram(
        "eco2_submit_seconds",
        "gateway",
        "From the head of a request to the answer with the job's id.",
        "pipeline",
        bounds=MOMENTS,
    ),
    counter(
        "eco2_requests_refused", "gateway", "Requests that became no job, by error code.", "pipeline", "code"
    ),
    gauge("eco2_sse_connections", "gateway", "Open event streams.", "pipeline"),
    histogram(
        "eco2_first_event_seconds",
        "gateway",
        "From a request for events to the first event sent, of clients that had none before.",
        "pipeline",
        bounds=MOMENTS,
    ),
    counter("eco2_sse_resumed", "gateway", "Event streams that went on behind a Last-Event-ID.", "pipeline"),
    counter("eco2_sse_cut", "gateway", "Event streams cut off because the client took nothing.", "pipeline"),
)

PROCESS = (
    gauge("eco2_view_jobs", "each", "Jobs in this process's view of the journal."),
    gauge(
        "eco2_view_lag_seconds",
        "each",
        "How late the newest journal event came here after it was written, by the writer's clock.",
    ),
    gauge(
        "eco2_clock_ahead_seconds",
        "each",
        "How far this machine's clock is ahead of those of most processes (behind: negative); 0 without a "
        "majority.",
    ),
    histogram(
        "eco2_barrier_seconds",
        "each",
        "From writing a marker to the journal to reading it: both ways, and what was before it.",
        bounds=MOMENTS,
    ),
    gauge(
        "eco2_outbox_oldest_seconds",
        "each",
        "Age of the oldest event of this process that the journal has not confirmed; 0 without one.",
    ),
    gauge(
        "eco2_tail_behind_seconds",
        "each",
        "Age of the oldest confirmed event of this process that its own tail has not shown; 0 without one.",
    ),
    counter(
        "eco2_journal_replaced",
        "each",
        "Times that the journal turned out to be another one, deleted or wiped: its jobs were lost.",
    ),
    counter("eco2_journal_skipped", "each", "Journal messages and events that this version cannot read."),
    gauge("eco2_broker_up", "each", "1 while the connection to the broker stands.", "link"),
    counter("eco2_broker_reconnects", "each", "Connections made after the first one was lost.", "link"),
    gauge("eco2_broker_blocked", "each", "1 while the broker takes no messages (memory or disk alarm)."),
    histogram(
        "eco2_loop_lag_seconds",
        "each",
        "How much later than asked the event loop woke a task that slept.",
        bounds=MOMENTS,
    ),
    gauge("eco2_build_info", "each", "Always 1; the labels say what runs.", "version", "role", "python"),
)

GROUPS: Mapping[str, tuple[Series, ...]] = {
    "Jobs": JOBS,
    "Stages and calls": CALLS,
    "Budget and money": BUDGET,
    "Gateway": GATEWAY,
    "Journal, broker and process": PROCESS,
}

SERIES: Mapping[str, Series] = {series.name: series for group in GROUPS.values() for series in group}
