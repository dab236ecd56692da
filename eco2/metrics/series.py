"""The table of all series of Eco²: name, kind, labels, bounds, the processes that show it, and its help.

Labels take values from small sets (pipelines, stages, statuses, models), never ids, so the number of series
does not grow with jobs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SeriesKind = Literal["counter", "gauge", "histogram"]
ShownBy = Literal["gateway", "worker", "each", "leader"]
"""The processes that show a series. `leader`: the one worker that is elected for the task."""

WAIT_BOUNDS = (0.002, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 20, 30, 60, 120)
"""Seconds that calls wait: from a budget with room to an exhausted one."""
GRANT_BOUNDS = (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120)
"""Seconds until a grant: from an immediate reply to an exhausted budget."""
JOB_BOUNDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 45, 60, 90, 120, 180)
"""Seconds of stages, calls and jobs: from a table look-up to the default deadline of a job."""
LATENCY_BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
"""Seconds of operations that should take milliseconds: a first event, an acceptance, a barrier."""

GLOBAL = "Every process shows the same total: use max() over instances, not sum()."


@dataclass(frozen=True, slots=True)
class Series:
    """One series. `name`: without the suffix `_total` of counters. `bounds`: of a histogram."""

    name: str
    kind: SeriesKind
    by: ShownBy
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def shown_as(self) -> str:
        """Returns the name in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def counter(name: str, by: ShownBy, text: str, *labels: str) -> Series:
    return Series(name, "counter", by, text, labels)


def gauge(name: str, by: ShownBy, text: str, *labels: str) -> Series:
    return Series(name, "gauge", by, text, labels)


def histogram(name: str, by: ShownBy, text: str, *labels: str, bounds: tuple[float, ...]) -> Series:
    return Series(name, "histogram", by, text, labels, bounds)


JOBS = (
    counter("eco2_jobs_accepted", "gateway", "Jobs answered with 202.", "pipeline"),
    gauge("eco2_jobs_backlog", "each", f"Accepted jobs that have not ended. {GLOBAL}", "pipeline"),
    gauge(
        "eco2_jobs_waiting",
        "each",
        f"Jobs of the backlog that no worker runs: not started, released, or waiting for a retry. {GLOBAL}",
        "pipeline",
    ),
    gauge(
        "eco2_jobs_oldest_waiting_seconds",
        "each",
        f"Seconds since the acceptance of the oldest waiting job; 0 if none waits. {GLOBAL}",
        "pipeline",
    ),
    gauge("eco2_jobs_running", "worker", "Jobs that this worker holds, parked ones included.", "pipeline"),
    gauge("eco2_job_slots", "worker", "Jobs that this worker runs at once (its prefetch).", "pipeline"),
    histogram(
        "eco2_job_seconds",
        "worker",
        "Seconds from acceptance to the end of a run, by outcome of the run.",
        "pipeline",
        "status",
        bounds=JOB_BOUNDS,
    ),
    counter(
        "eco2_jobs_ended",
        "worker",
        "Jobs that ended in this process, by status and error code (OK: no error).",
        "pipeline",
        "status",
        "code",
    ),
    counter("eco2_jobs_put_off", "worker", "Jobs that wait for a retry after a stage failed.", "pipeline"),
    counter("eco2_dead_letters", "worker", "Orders sent to the dead-letter queue.", "pipeline", "code"),
    counter(
        "eco2_jobs_resumed",
        "worker",
        "Runs that resumed after previously completed stages.",
        "pipeline",
    ),
    gauge(
        "eco2_jobs_parked",
        "worker",
        "Jobs delivered to this worker that wait for the worker that holds them.",
        "pipeline",
    ),
    counter(
        "eco2_jobs_taken_over",
        "worker",
        "Jobs taken over from a worker that was silent for too long.",
        "pipeline",
    ),
    counter(
        "eco2_deliveries_redelivered",
        "worker",
        "Deliveries that the broker marked as redelivered.",
        "pipeline",
    ),
    counter(
        "eco2_deliveries_adopted",
        "worker",
        "Deliveries of a job that was running in this worker already.",
        "pipeline",
    ),
    counter(
        "eco2_jobs_swept",
        "worker",
        "Jobs that the sweep ended after their deadline, or ordered again.",
        "pipeline",
        "what",
    ),
    gauge(
        "eco2_queue_messages",
        "leader",
        "Ready messages of a queue at the last sweep; messages of the dead-letter queue that a command "
        "holds are not counted.",
        "queue",
    ),
    gauge(
        "eco2_pipeline_workers",
        "each",
        f"Workers that announced in the last 12 s that they serve the pipeline. {GLOBAL}",
        "pipeline",
    ),
    gauge("eco2_intake_paused", "each", "1 while an operator has paused the intake."),
)

CALLS = (
    histogram(
        "eco2_stage_seconds",
        "worker",
        "Seconds of a stage in one run.",
        "pipeline",
        "stage",
        "status",
        bounds=JOB_BOUNDS,
    ),
    histogram(
        "eco2_call_seconds",
        "worker",
        "Seconds of one model call, from sending the request to the last byte.",
        "kind",
        "model",
        "outcome",
        bounds=JOB_BOUNDS,
    ),
    counter("eco2_call_retries", "worker", "Calls retried immediately, by kind of call.", "kind"),
    gauge("eco2_calls_waiting", "worker", "Calls that wait for a slot or a grant.", "provider"),
    gauge(
        "eco2_calls_in_flight", "worker", "Calls of this worker that the provider is answering.", "provider"
    ),
    gauge(
        "eco2_call_slots", "worker", "Calls that this worker may make to the provider at once.", "provider"
    ),
    histogram(
        "eco2_call_wait_seconds",
        "worker",
        "Seconds that a call waited before it was sent: for a slot and a grant (without limits: a barrier).",
        "provider",
        bounds=WAIT_BOUNDS,
    ),
    counter(
        "eco2_tokens",
        "worker",
        "Tokens charged for model calls; cached tokens are also counted as input.",
        "kind",
        "model",
        "direction",
    ),
    counter(
        "eco2_cost_usd",
        "worker",
        "Cost of model calls in USD by list price; models without a known price are not counted.",
        "kind",
        "model",
    ),
    gauge("eco2_breaker_open", "worker", "1 while the provider is considered down.", "provider"),
    counter(
        "eco2_breaker_openings",
        "worker",
        "Times that the breaker opened, or that a trial call kept it open: the provider was down, or "
        "refused all our calls (key, quota).",
        "provider",
        "why",
    ),
    counter("eco2_rate_limited", "worker", "429 answers, by the limit that was reached.", "provider", "kind"),
)

BUDGET = (
    gauge("eco2_quota_leader", "worker", "1 if this process grants the provider's budget.", "provider"),
    counter(
        "eco2_quota_terms", "worker", "Epochs of the budget that this process opened and led.", "provider"
    ),
    gauge("eco2_quota_limit", "leader", "Limit per minute, before the factor.", "provider", "what"),
    gauge("eco2_quota_used", "leader", "Granted in the last minute by all leaders.", "provider", "what"),
    gauge(
        "eco2_quota_assumed",
        "leader",
        "Kept free for grants that may have been made before the oldest record that the leader has read.",
        "provider",
        "what",
    ),
    gauge(
        "eco2_quota_waiting",
        "leader",
        "Requests of all processes that wait for a grant, as the leader has read them.",
        "provider",
    ),
    gauge(
        "eco2_quota_factor",
        "leader",
        "Share of the limit that is granted; lowered after 429 answers.",
        "provider",
    ),
    histogram(
        "eco2_grant_seconds",
        "worker",
        "Seconds from the request for a grant until the grant is read in the journal.",
        "provider",
        bounds=GRANT_BOUNDS,
    ),
    counter(
        "eco2_quota_grants",
        "worker",
        "Grants that this process received, by outcome (refunded: the call was not made).",
        "provider",
        "outcome",
    ),
    gauge(
        "eco2_quota_reserved",
        "worker",
        "Part of the budget that calls of this process hold, from their grant to their end.",
        "provider",
        "what",
    ),
    gauge("eco2_daily_limit_usd", "each", "Daily spending limit for models (UTC)."),
    gauge("eco2_spent_today_usd", "each", f"Cost of model calls today (UTC), by list price. {GLOBAL}"),
)

GATEWAY = (
    histogram(
        "eco2_submit_seconds",
        "gateway",
        "Seconds from the head of a request to the answer with the job's id.",
        "pipeline",
        bounds=LATENCY_BOUNDS,
    ),
    counter(
        "eco2_requests_refused", "gateway", "Requests that were refused, by error code.", "pipeline", "code"
    ),
    gauge("eco2_sse_connections", "gateway", "Open event streams.", "pipeline"),
    histogram(
        "eco2_first_event_seconds",
        "gateway",
        "Seconds from a request for events to the first event sent, for new clients.",
        "pipeline",
        bounds=LATENCY_BOUNDS,
    ),
    counter("eco2_sse_resumed", "gateway", "Event streams resumed with Last-Event-ID.", "pipeline"),
    counter("eco2_sse_cut", "gateway", "Event streams closed because the client read nothing.", "pipeline"),
)

PROCESS = (
    gauge("eco2_view_jobs", "each", "Jobs that this process keeps in memory, ended ones included."),
    gauge(
        "eco2_view_lag_seconds",
        "each",
        "Seconds from the writing of the newest journal event (by its writer's clock) to its arrival here.",
    ),
    gauge(
        "eco2_clock_ahead_seconds",
        "each",
        "Seconds that this machine's clock is ahead of the majority of processes (behind: negative); 0 "
        "without a majority.",
    ),
    histogram(
        "eco2_barrier_seconds",
        "each",
        "Seconds from writing a marker to the journal to reading it back.",
        bounds=LATENCY_BOUNDS,
    ),
    gauge(
        "eco2_outbox_oldest_seconds",
        "each",
        "Age of the oldest event of this process that the journal has not confirmed; 0 if none.",
    ),
    gauge(
        "eco2_tail_behind_seconds",
        "each",
        "Age of the oldest confirmed event of this process that its tail has not read back; 0 if none.",
    ),
    gauge(
        "eco2_snapshot_age_seconds",
        "each",
        "Seconds since the newest snapshot of the view that this process knows of, without one since its "
        "start. None is written while no job changes. Only with RabbitMQ: use min() over instances.",
    ),
    counter(
        "eco2_journal_replaced",
        "each",
        "Times that the journal was found deleted or replaced; its jobs were lost.",
    ),
    counter("eco2_journal_skipped", "each", "Journal messages and events that this version cannot read."),
    gauge("eco2_broker_up", "each", "1 while the connection to the broker is open.", "link"),
    counter("eco2_broker_reconnects", "each", "Connections made after the first one was lost.", "link"),
    gauge("eco2_broker_blocked", "each", "1 while the broker accepts no messages (memory or disk alarm)."),
    histogram(
        "eco2_loop_lag_seconds",
        "each",
        "Seconds that the event loop woke a sleeping task late.",
        bounds=LATENCY_BOUNDS,
    ),
    gauge(
        "eco2_build_info",
        "each",
        "Always 1; version, role and Python version are in the labels.",
        "version",
        "role",
        "python",
    ),
)

GROUPS: Mapping[str, tuple[Series, ...]] = {
    "Jobs": JOBS,
    "Stages and calls": CALLS,
    "Budget and money": BUDGET,
    "Gateway": GATEWAY,
    "Journal, broker and process": PROCESS,
}

SERIES: Mapping[str, Series] = {series.name: series for group in GROUPS.values() for series in group}
