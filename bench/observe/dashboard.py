"""The dashboard, overview first: is it healthy, is the budget used, where does the time go? Then each part.

`python -m bench.observe.dashboard` writes helm/eco2/files/dashboard.json; a test keeps the two equal.
"""

from pathlib import Path

from bench.observe.grafana import document
from bench.observe.panel import GREEN, RED, YELLOW, Panel, Query, Row, Steps, good_below, good_from
from bench.observe.promql import RANGE, calls, here, jobs, mean, quantile, rate, whole

FILE = Path(__file__).parents[2] / "helm/eco2/files/dashboard.json"

ALWAYS: Steps = ((None, GREEN),)
NONE_IS_GOOD: Steps = ((None, GREEN), (1, RED))
ENDED = jobs("eco2_jobs_ended_total")
COMPLETED = jobs("eco2_jobs_ended_total", "status=completed")


def stat(title: str, description: str, expr: str, unit: str = "short", steps: Steps = ALWAYS) -> Panel:
    """Returns a panel with one number of the overview."""
    return Panel(title, description, (Query(expr),), unit, "stat", width=3, height=4, steps=steps)


def chart(title: str, description: str, *queries: Query, unit: str = "short", width: int = 8) -> Panel:
    return Panel(title, description, queries, unit, width=width)


def stack(title: str, description: str, *queries: Query, unit: str = "short", width: int = 8) -> Panel:
    return Panel(title, description, queries, unit, width=width, stacked=True)


def quantiles(buckets: str) -> tuple[Query, ...]:
    """Returns the usual three quantiles of a histogram, over all processes."""
    return tuple(Query(quantile(share, buckets), f"p{100 * share:g}") for share in (0.5, 0.95, 0.99))


def budget(what: str) -> tuple[Query, ...]:
    """Returns a provider's limit per minute of `what`, and its used part."""
    labels = f"what={what}"
    used, limit = calls("eco2_quota_used", labels), calls("eco2_quota_limit", labels)
    return (
        Query(whole(used, "provider"), "{{provider}} used"),
        Query(whole(calls("eco2_quota_assumed", labels), "provider"), "{{provider}} assumed"),
        Query(whole(limit, "provider"), "{{provider}} limit"),
    )


HEALTHY = Row(
    "Is it healthy?",
    (
        stat(
            "Gateways",
            "Gateways that Prometheus reaches. One is enough, except while it is replaced.",
            f"count({here('eco2_build_info', 'role=~gateway|serve')}) or vector(0)",
            steps=good_from(1, 2),
        ),
        stat(
            "Workers",
            "Workers that Prometheus reaches. `eco2 size` shows how many the budget needs.",
            f"count({here('eco2_build_info', 'role=~worker|serve')}) or vector(0)",
            steps=good_from(1, 2),
        ),
        stat(
            "Succeeded",
            "Share of the jobs that ended in the last 10 minutes and completed.",
            f"sum(increase({COMPLETED}[10m])) / sum(increase({ENDED}[10m]))",
            "percentunit",
            good_from(0.95, 0.99),
        ),
        stat(
            "Oldest waiting",
            "Age of the oldest interactive job that no worker runs. It ends as EXPIRED after ECO2_MAX_WAIT "
            "(180 s).",
            f"max({jobs('eco2_jobs_oldest_waiting_seconds', 'priority=interactive')})",
            "s",
            good_below(30, 60),
        ),
        stat(
            "Dead letters",
            "Orders of jobs that failed for a reason that can be repaired: `eco2 dead list`.",
            f"max({here('eco2_queue_messages', 'queue=dead')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Providers down",
            "Providers whose breaker is open at some worker: their calls wait or go to another provider.",
            f"sum({whole(calls('eco2_breaker_open'), 'provider')}) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Intake paused",
            "1 while an operator keeps workers from taking jobs: `eco2 resume`.",
            f"max({here('eco2_intake_paused')})",
            steps=((None, GREEN), (1, YELLOW)),
        ),
        stat(
            "Alerts",
            "Firing alerts of Eco². docs/runbooks.md says what to do.",
            f"count({here('ALERTS', 'alertstate=firing')}) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        chart(
            "Jobs per second",
            "Accepted (answered with 202) and ended. They should be equal, except for waiting jobs.",
            Query(rate(jobs("eco2_jobs_accepted_total")), "accepted"),
            Query(rate(ENDED, "status"), "{{status}}"),
            unit="reqps",
            width=12,
        ),
        stack(
            "Backlog",
            "Jobs accepted and not ended: running, or waiting until a worker takes them.",
            Query(
                f"{whole(jobs('eco2_jobs_backlog'))} - {whole(jobs('eco2_jobs_waiting'))}",
                "{{pipeline}} running",
            ),
            Query(whole(jobs("eco2_jobs_waiting")), "{{pipeline}} waiting"),
            width=12,
        ),
    ),
)

BUDGET_USED = Row(
    "Is the budget used?",
    (
        chart(
            "Requests a minute",
            "Requests granted in the last minute, and the provider's limit for all workers (RPM).",
            *budget("requests"),
        ),
        chart(
            "Tokens a minute",
            "The same in tokens (TPM), as the provider counts them.",
            *budget("tokens"),
        ),
        Panel(
            "Share of the limit",
            "Near 1 the budget is fully used, and more workers do not help.",
            (
                Query(
                    whole(f"{calls('eco2_quota_used')} / {calls('eco2_quota_limit')}", "provider, what"),
                    "{{provider}} {{what}}",
                ),
            ),
            "percentunit",
            most=1,
            steps=((None, GREEN), (0.98, YELLOW)),
        ),
    ),
)

TIME = Row(
    "Where does the time go?",
    (
        chart(
            "From acceptance to the end",
            "The whole chain of jobs that completed, with all waiting.",
            Query(mean(jobs, "eco2_job_seconds", labels="status=completed"), "mean"),
            *quantiles(jobs("eco2_job_seconds_bucket", "status=completed")),
            unit="s",
        ),
        stack(
            "Mean of each stage",
            "Stages that completed, on top of each other. The rest of the chain was waiting.",
            Query(mean(jobs, "eco2_stage_seconds", "stage", "status=completed"), "{{stage}}"),
            unit="s",
        ),
        stack(
            "Mean wait and work of a call",
            "An interactive call waits for its turn (slot, grant of the budget), then the provider answers.",
            Query(
                mean(calls, "eco2_call_wait_seconds", labels="priority=interactive"), "waiting for its turn"
            ),
            Query(mean(here, "eco2_call_seconds"), "at the provider"),
            unit="s",
        ),
    ),
)

JOBS = Row(
    "Jobs",
    (
        chart(
            "Oldest waiting job",
            "Age of the oldest job that no worker runs.",
            Query(
                f"max by (pipeline, priority) ({jobs('eco2_jobs_oldest_waiting_seconds')})",
                "{{pipeline}}, {{priority}}",
            ),
            unit="s",
        ),
        chart(
            "Held by workers",
            "Jobs that workers hold, against their slots (prefetch) of each priority. With full slots and a "
            "backlog, more workers help if the budget has room.",
            Query(f"sum by (priority) ({jobs('eco2_jobs_running')})", "{{priority}} held"),
            Query(f"sum by (priority) ({jobs('eco2_job_slots')})", "{{priority}} slots"),
            Query(f"sum({jobs('eco2_jobs_parked')})", "on standby"),
        ),
        chart(
            "Ends by reason",
            "Ends of jobs a minute by error code; OK is success.",
            Query(f"60 * {rate(ENDED, 'code')}", "{{code}}"),
            unit="opm",
        ),
        chart(
            "Retries and dead letters",
            "Per minute: jobs put off after a stage failed, orders that became dead letters.",
            Query(f"60 * {rate(jobs('eco2_jobs_put_off_total'))}", "put off"),
            Query(f"60 * {rate(jobs('eco2_dead_letters_total'), 'code')}", "dead letter {{code}}"),
            unit="opm",
        ),
        chart(
            "Recovery",
            "Per minute: redeliveries, those of jobs that already run here, jobs taken over from a silent "
            "worker, runs that resumed after completed stages, actions of the sweep.",
            Query(f"60 * {rate(jobs('eco2_deliveries_redelivered_total'))}", "redelivered"),
            Query(f"60 * {rate(jobs('eco2_deliveries_adopted_total'))}", "adopted"),
            Query(f"60 * {rate(jobs('eco2_jobs_taken_over_total'))}", "taken over"),
            Query(f"60 * {rate(jobs('eco2_jobs_resumed_total'))}", "resumed"),
            Query(f"60 * {rate(jobs('eco2_jobs_swept_total'), 'what')}", "swept: {{what}}"),
            unit="opm",
        ),
        chart(
            "Messages in queues",
            "Messages that no consumer holds, as the sweep reads them every 5 s. `wait-…`: jobs put off.",
            Query(whole(here("eco2_queue_messages"), "queue"), "{{queue}}"),
        ),
    ),
)

STAGES = Row(
    "Stages",
    (
        chart(
            "Median of each stage",
            "Of stages that completed.",
            Query(quantile(0.5, jobs("eco2_stage_seconds_bucket", "status=completed"), "stage"), "{{stage}}"),
            unit="s",
        ),
        chart(
            "p99 of each stage",
            "Of stages that completed.",
            Query(
                quantile(0.99, jobs("eco2_stage_seconds_bucket", "status=completed"), "stage"), "{{stage}}"
            ),
            unit="s",
        ),
        chart(
            "Stages that did not complete",
            "Per minute: failed permanently, put off, or interrupted (by a drain, a takeover, the time-out).",
            Query(
                f"60 * {rate(jobs('eco2_stage_seconds_count', 'status!=completed'), 'stage, status')}",
                "{{stage}} {{status}}",
            ),
            unit="opm",
        ),
    ),
)

PROVIDER = Row(
    "Provider",
    (
        chart(
            "Duration of calls",
            "From the first byte sent to the last one received, of calls that succeeded.",
            *quantiles(here("eco2_call_seconds_bucket", "outcome=ok")),
            unit="s",
        ),
        chart(
            "Outcome of calls",
            "Per minute; all except ok are errors by their class (docs/architecture.md).",
            Query(f"60 * {rate(here('eco2_call_seconds_count'), 'outcome')}", "{{outcome}}"),
            unit="opm",
        ),
        chart(
            "Calls in flight",
            "Calls at the provider now, the slots of all workers together, and waiting calls.",
            Query(f"sum by (provider) ({calls('eco2_calls_in_flight')})", "{{provider}}"),
            Query(f"sum by (provider) ({calls('eco2_calls_waiting')})", "{{provider}} waiting"),
            Query(f"sum by (provider) ({calls('eco2_call_slots')})", "{{provider}} slots"),
        ),
        chart(
            "Retried calls, 429s, breakers",
            "Per minute: calls retried at once; 429 answers by limit (with right limits there are none); "
            "openings of breakers by reason.",
            Query(f"60 * {rate(here('eco2_call_retries_total'), 'kind')}", "retried: {{kind}}"),
            Query(f"60 * {rate(calls('eco2_rate_limited_total'), 'kind')}", "429 {{kind}}"),
            Query(f"60 * {rate(calls('eco2_breaker_openings_total'), 'why')}", "breaker: {{why}}"),
            unit="opm",
        ),
        chart(
            "Tokens a minute by kind of call",
            "As charged; cached ones are part of the input.",
            Query(
                f"60 * {rate(here('eco2_tokens_total'), 'kind, model, direction')}",
                "{{kind}} {{model}} {{direction}}",
            ),
        ),
        chart(
            "Dollars an hour by kind of call",
            "By list price, without calls of models whose price is not known.",
            Query(f"3600 * {rate(here('eco2_cost_usd_total'), 'kind, model')}", "{{kind}} {{model}}"),
            unit="currencyUSD",
        ),
    ),
)

BUDGET = Row(
    "Budget",
    (
        chart(
            "Wait for a turn",
            "Of interactive calls, until they are sent. It grows when the budget or the slots bind.",
            *quantiles(calls("eco2_call_wait_seconds_bucket", "priority=interactive")),
            unit="s",
        ),
        chart(
            "Wait for a grant",
            "The part of it until the process reads its grant in the journal.",
            *quantiles(calls("eco2_grant_seconds_bucket", "priority=interactive")),
            unit="s",
        ),
        chart(
            "Calls that wait for a grant, and factor",
            "Requests of all workers; the used share of the limit, below 1 for some time after a 429.",
            Query(whole(calls("eco2_quota_waiting"), "provider"), "{{provider}} waiting"),
            Query(f"min by (provider) ({calls('eco2_quota_factor')})", "{{provider}} factor"),
        ),
        chart(
            "Grants a minute by outcome",
            "Many expired ones: connections to the provider are slow, or workers have too little CPU.",
            Query(f"60 * {rate(calls('eco2_quota_grants_total'), 'outcome')}", "{{outcome}}"),
            unit="opm",
        ),
        chart(
            "Leaders and epochs",
            "Leaders: 1 per provider. Epochs begun in the last hour: many mean crashes or stalled tails.",
            Query(f"sum by (provider) ({calls('eco2_quota_leader')})", "{{provider}} leaders"),
            Query(
                f"sum by (provider) (increase({calls('eco2_quota_terms_total')}[1h]))", "{{provider}} epochs"
            ),
        ),
        chart(
            "Held by calls in flight",
            "Requests and tokens of the budget from their grant to the end of the call.",
            Query(
                f"sum by (provider, what) ({calls('eco2_quota_reserved')})",
                "{{provider}} {{what}}",
            ),
        ),
        chart(
            "Spent today",
            "USD since midnight UTC by list price, and the limit. Only with ECO2_DAILY_USD.",
            Query(f"max({here('eco2_spent_today_usd')})", "spent"),
            Query(f"max({here('eco2_daily_limit_usd')})", "limit"),
            unit="currencyUSD",
        ),
    ),
)

GATEWAY = Row(
    "Gateway and event streams",
    (
        chart(
            "First event",
            "From a request for events to the first one sent, of clients that had none before.",
            *quantiles(jobs("eco2_first_event_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Acceptance",
            "From the head of a request to the answer with the job's id: event and order confirmed.",
            *quantiles(jobs("eco2_submit_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Open event streams",
            "Connections of clients, over all gateways.",
            Query(f"sum by (pipeline) ({jobs('eco2_sse_connections')})", "{{pipeline}}"),
        ),
        chart(
            "Refused requests",
            "Per minute, by the code in the answer.",
            Query(f"60 * {rate(jobs('eco2_requests_refused_total'), 'code')}", "{{code}}"),
            unit="opm",
        ),
        chart(
            "Resumed and cut streams",
            "Per minute: clients that returned with Last-Event-ID, and clients cut off that read nothing.",
            Query(f"60 * {rate(jobs('eco2_sse_resumed_total'))}", "resumed"),
            Query(f"60 * {rate(jobs('eco2_sse_cut_total'))}", "cut"),
            unit="opm",
        ),
    ),
)

BROKER = Row(
    "Broker and journal",
    (
        chart(
            "Connections up",
            "By link, over all processes; two of a gateway, four of a worker.",
            Query(f"sum by (link) ({here('eco2_broker_up')})", "{{link}}"),
        ),
        chart(
            "Reconnects",
            "In the last 10 minutes, by link.",
            Query(f"sum by (link) (increase({here('eco2_broker_reconnects_total')}[10m]))", "{{link}}"),
        ),
        chart(
            "Blocked by an alarm",
            "1 while the broker accepts no messages: gateways answer 503.",
            Query(whole(here("eco2_broker_blocked"), "job, instance"), "{{instance}}"),
        ),
        chart(
            "Lag of the view",
            "The lag of the newest journal event, and the clock's lead over most others, by process.",
            Query(whole(here("eco2_view_lag_seconds"), "job, instance"), "{{instance}}"),
            Query(whole(here("eco2_clock_ahead_seconds"), "job, instance"), "{{instance}}: clock ahead"),
            unit="s",
        ),
        chart(
            "Barriers",
            "From writing a marker to reading it. Look-ups of jobs wait for one, and calls without limits.",
            *quantiles(here("eco2_barrier_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Unconfirmed events",
            "Age of the oldest event that is not confirmed, or that was confirmed and has not "
            "come back, by process.",
            Query(whole(here("eco2_outbox_oldest_seconds"), "job, instance"), "{{instance}}"),
            Query(whole(here("eco2_tail_behind_seconds"), "job, instance"), "{{instance}}: not shown"),
            unit="s",
        ),
        chart(
            "Jobs in view, events skipped",
            "The recent jobs of a process; the age of the newest snapshot; journal events that its version "
            "cannot read; replacements of the journal.",
            Query(f"max({here('eco2_view_jobs')})", "jobs in view"),
            Query(f"min({here('eco2_snapshot_age_seconds')})", "seconds since the newest snapshot"),
            Query(f"max(increase({here('eco2_journal_replaced_total')}[10m]))", "journal replaced in 10 min"),
            Query(f"sum(increase({here('eco2_journal_skipped_total')}[10m]))", "skipped in 10 min"),
        ),
    ),
)

PROCESSES = Row(
    "Processes",
    (
        chart(
            "Workers by pipeline",
            "Workers that serve each pipeline. At 0 its jobs wait, and expire.",
            Query(whole(jobs("eco2_pipeline_workers")), "{{pipeline}}"),
        ),
        chart(
            "Event-loop lag, p99",
            "The delay of a sleeping task's wake-up. Above about 0.1 s everything in the process is late.",
            Query(quantile(0.99, here("eco2_loop_lag_seconds_bucket"), "job, instance"), "{{instance}}"),
            unit="s",
        ),
        chart(
            "Event loop blocked",
            "Times in the last 10 minutes that a stage blocked the loop for over 1 s; the log has its stack.",
            Query(
                f"sum by (pipeline, stage) (increase({here('eco2_loop_blocked_total')}[10m]))",
                "{{pipeline}} {{stage}}",
            ),
        ),
        chart(
            "CPU",
            "Cores that each process uses; it can use at most one.",
            Query(
                f"rate(process_cpu_seconds_total{RANGE}) * on (job, instance) group_left (role) "
                + here("eco2_build_info"),
                "{{role}} {{instance}}",
            ),
        ),
        chart(
            "Memory",
            "Resident memory of each process.",
            Query(
                "process_resident_memory_bytes * on (job, instance) group_left (role) "
                + here("eco2_build_info"),
                "{{role}} {{instance}}",
            ),
            unit="bytes",
        ),
        chart(
            "Open files",
            "Descriptors of each process: a client's event stream is one.",
            Query(
                "process_open_fds * on (job, instance) group_left (role) " + here("eco2_build_info"),
                "{{role}} {{instance}}",
            ),
        ),
        chart(
            "Versions",
            "Processes by version: two of them while a deploy is under way.",
            Query(f"count by (version, role) ({here('eco2_build_info')})", "{{role}} {{version}}"),
        ),
    ),
)

ROWS = (HEALTHY, BUDGET_USED, TIME, JOBS, STAGES, PROVIDER, BUDGET, GATEWAY, BROKER, PROCESSES)


def text() -> str:
    """Returns the file's text."""
    return document(ROWS)


if __name__ == "__main__":
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text())
