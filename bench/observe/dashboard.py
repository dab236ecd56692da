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
            "Gateways that Prometheus reaches. One alone serves everything, but not while it is replaced.",
            f"count({here('eco2_build_info', 'role=~gateway|serve')}) or vector(0)",
            steps=good_from(1, 2),
        ),
        stat(
            "Workers",
            "Workers that Prometheus reaches. How many the budget needs: `eco2 size`.",
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
            "Age of the oldest job that no worker is at. A job ends as failed at ECO2_JOB_DEADLINE (180 s).",
            f"max({jobs('eco2_jobs_oldest_waiting_seconds')})",
            "s",
            good_below(30, 60),
        ),
        stat(
            "Dead letters",
            "Orders kept since their jobs failed by something that can be mended: `eco2 dead list`.",
            f"max({here('eco2_queue_messages', 'queue=dead')})",
            steps=NONE_IS_GOOD,
        ),
        stat(
            "Providers down",
            "Providers whose breaker is open at some worker: their calls wait or go elsewhere.",
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
            "Alerts of Eco² that fire. What to do: docs/runbooks.md.",
            f"count({here('ALERTS', 'alertstate=firing')}) or vector(0)",
            steps=NONE_IS_GOOD,
        ),
        chart(
            "Jobs per second",
            "Accepted (answered with 202) and ended. They should be equal but for what waits.",
            Query(rate(jobs("eco2_jobs_accepted_total")), "accepted"),
            Query(rate(ENDED, "status"), "{{status}}"),
            unit="reqps",
            width=12,
        ),
        stack(
            "Backlog",
            "Jobs accepted and not ended: at work, or waiting until a worker takes them.",
            Query(
                f"{whole(jobs('eco2_jobs_backlog'))} - {whole(jobs('eco2_jobs_waiting'))}",
                "{{pipeline}} at work",
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
            "What was granted in the last minute against what the provider allows over all workers (RPM).",
            *budget("requests"),
        ),
        chart(
            "Tokens a minute",
            "The same in tokens (TPM), as the provider counts them.",
            *budget("tokens"),
        ),
        Panel(
            "Share of the limit",
            "Near 1 the budget is fully used, and more workers bring nothing.",
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
            "A call waits for its turn (slot, grant of the budget, fence), then the provider answers.",
            Query(mean(calls, "eco2_call_wait_seconds"), "waiting for its turn"),
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
            "Age of the oldest job that no worker is at.",
            Query(whole(jobs("eco2_jobs_oldest_waiting_seconds")), "{{pipeline}}"),
            unit="s",
        ),
        chart(
            "In workers' hands",
            "Jobs that workers hold, against their slots (prefetch). With full slots and a backlog more "
            "workers help, if the budget has room.",
            Query(f"sum({jobs('eco2_jobs_running')})", "held"),
            Query(f"sum({jobs('eco2_job_slots')})", "slots"),
            Query(f"sum({jobs('eco2_jobs_parked')})", "parked"),
        ),
        chart(
            "Ends by reason",
            "Ends of jobs a minute by error code; OK is success.",
            Query(f"60 * {rate(ENDED, 'code')}", "{{code}}"),
            unit="opm",
        ),
        chart(
            "Retries and dead letters",
            "A minute: jobs put off after a stage failed, orders that became dead letters.",
            Query(f"60 * {rate(jobs('eco2_jobs_put_off_total'))}", "put off"),
            Query(f"60 * {rate(jobs('eco2_dead_letters_total'), 'code')}", "dead letter {{code}}"),
            unit="opm",
        ),
        chart(
            "Repair",
            "A minute: deliveries that came again, those of jobs at work here, jobs taken over from a silent "
            "worker, runs that went on behind completed stages, what the sweep did.",
            Query(f"60 * {rate(jobs('eco2_deliveries_redelivered_total'))}", "redelivered"),
            Query(f"60 * {rate(jobs('eco2_deliveries_adopted_total'))}", "adopted"),
            Query(f"60 * {rate(jobs('eco2_jobs_taken_over_total'))}", "taken over"),
            Query(f"60 * {rate(jobs('eco2_jobs_resumed_total'))}", "resumed"),
            Query(f"60 * {rate(jobs('eco2_jobs_swept_total'), 'what')}", "swept: {{what}}"),
            unit="opm",
        ),
        chart(
            "Messages in queues",
            "Messages that nobody holds, as the sweep sees them every 5 s. `wait-…`: jobs put off.",
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
            "A minute: failed for good, put off, or interrupted (by a drain, a takeover, the deadline).",
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
            "A minute; all but ok are errors by their class (docs/architecture.md).",
            Query(f"60 * {rate(here('eco2_call_seconds_count'), 'outcome')}", "{{outcome}}"),
            unit="opm",
        ),
        chart(
            "Calls in flight",
            "At the provider now, against the slots of all workers together; and those that wait.",
            Query(f"sum by (provider) ({calls('eco2_calls_in_flight')})", "{{provider}}"),
            Query(f"sum by (provider) ({calls('eco2_calls_waiting')})", "{{provider}} waiting"),
            Query(f"sum by (provider) ({calls('eco2_call_slots')})", "{{provider}} slots"),
        ),
        chart(
            "Calls tried again, 429s, breakers",
            "A minute: calls tried again at once; 429 answers by limit (with true limits there are none); "
            "openings of breakers by reason.",
            Query(f"60 * {rate(here('eco2_call_retries_total'), 'kind')}", "again: {{kind}}"),
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
            "By list price; calls of models without a known price are not in it.",
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
            "From a call that could be sent to its turn. It grows when the budget or the slots bind.",
            *quantiles(calls("eco2_call_wait_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Wait for a grant",
            "Of this, what the leader of the budget took to answer.",
            *quantiles(calls("eco2_grant_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Calls that wait for a grant, and factor",
            "Waiting at the leader; the share of the limit that is used, below 1 for some time after a 429.",
            Query(whole(calls("eco2_quota_waiting"), "provider"), "{{provider}} waiting"),
            Query(f"min by (provider) ({calls('eco2_quota_factor')})", "{{provider}} factor"),
        ),
        chart(
            "Grants a minute by outcome",
            "Many expired ones: the journal or connections to the provider are slow.",
            Query(f"60 * {rate(calls('eco2_quota_grants_total'), 'outcome')}", "{{outcome}}"),
            unit="opm",
        ),
        chart(
            "Leaders and terms",
            "Who grants: 1 per provider. Terms begun in the last hour: many mean that workers crash.",
            Query(f"sum by (provider) ({calls('eco2_quota_leader')})", "{{provider}} leaders"),
            Query(
                f"sum by (provider) (increase({calls('eco2_quota_terms_total')}[1h]))", "{{provider}} terms"
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
            "USD since midnight UTC by list price, and the most that may be. Only with ECO2_DAILY_USD.",
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
            "A minute, by the code that the client was told.",
            Query(f"60 * {rate(jobs('eco2_requests_refused_total'), 'code')}", "{{code}}"),
            unit="opm",
        ),
        chart(
            "Resumed and cut streams",
            "A minute: clients that came back with Last-Event-ID, and those cut off since they took nothing.",
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
            "1 while the broker takes no messages: gateways answer 503.",
            Query(whole(here("eco2_broker_blocked"), "job, instance"), "{{instance}}"),
        ),
        chart(
            "Lag of the view",
            "How late the newest journal event came, and how far the clock is ahead of most, by process.",
            Query(whole(here("eco2_view_lag_seconds"), "job, instance"), "{{instance}}"),
            Query(whole(here("eco2_clock_ahead_seconds"), "job, instance"), "{{instance}}: clock ahead"),
            unit="s",
        ),
        chart(
            "Barriers",
            "From writing a marker to reading it. Every paid call waits for one.",
            *quantiles(here("eco2_barrier_seconds_bucket")),
            unit="s",
        ),
        chart(
            "Unconfirmed events",
            "Age of the oldest event that the journal has not confirmed, or that was confirmed and has not "
            "come back, by process.",
            Query(whole(here("eco2_outbox_oldest_seconds"), "job, instance"), "{{instance}}"),
            Query(whole(here("eco2_tail_behind_seconds"), "job, instance"), "{{instance}}: not shown"),
            unit="s",
        ),
        chart(
            "Jobs in view, events skipped",
            "The recent jobs that a process knows; journal events that its version cannot read; times that "
            "the journal was another one than before.",
            Query(f"max({here('eco2_view_jobs')})", "jobs in view"),
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
            "Workers that serve each pipeline. At 0 its jobs wait, and end at their deadline.",
            Query(whole(jobs("eco2_pipeline_workers")), "{{pipeline}}"),
        ),
        chart(
            "Event-loop lag, p99",
            "How much later than asked a sleeper woke. Above some 0.1 s everything in the process is late.",
            Query(quantile(0.99, here("eco2_loop_lag_seconds_bucket"), "job, instance"), "{{instance}}"),
            unit="s",
        ),
        chart(
            "CPU",
            "Cores that each process uses; one core is all that it can use.",
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
