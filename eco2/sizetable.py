"""The command `eco2 size`: the figures of `eco2/sizing.py` as a table with the source of each."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from eco2 import sizing
from eco2.sizing import JobSize, Sizing, size

OF_A_SCAN = "a scan's"


def show_size(
    rpm: Annotated[
        int, typer.Option(min=1, envvar="ECO2_RPM", help="The provider's limit of requests per minute.")
    ] = sizing.RPM,
    tpm: Annotated[
        int, typer.Option(min=1, envvar="ECO2_TPM", help="The provider's limit of tokens per minute.")
    ] = sizing.TPM,
    latency: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="Seconds that all calls of a job take together.", show_default=OF_A_SCAN
        ),
    ] = None,
    tokens: Annotated[
        float | None, typer.Option(min=1, help="Tokens of all calls of a job.", show_default=OF_A_SCAN)
    ] = None,
    calls: Annotated[
        int | None, typer.Option(min=1, help="Number of calls of a job.", show_default=OF_A_SCAN)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only the figures, as JSON.")] = False,
) -> None:
    """Compute the prefetch, concurrency and replicas that use a provider's limits completely."""
    from eco2.stages import SIZE

    job = JobSize(calls or SIZE.calls, tokens or SIZE.tokens, latency or SIZE.latency)
    sized = size(rpm, tpm, job)
    if as_json:
        derived = {
            "binding": sized.binding,
            "jobs_per_minute": sized.jobs_per_minute,
            "jobs_per_second": sized.jobs_per_second,
        }
        typer.echo(json.dumps(derived | asdict(sized)))
        return
    for name, value, why in rows(sized, rpm, tpm, job):
        typer.echo(f"{name:<17} {value:>12}  {why}")


def rows(sized: Sizing, rpm: int, tpm: int, job: JobSize) -> list[tuple[str, str, str]]:
    """Returns name, value and derivation of each figure."""
    from eco2.stages.photo import DECODERS_MB

    calls, rate = f"{sized.calls_in_flight:,.1f}", f"{sized.jobs_per_second:,.2f} jobs/s"
    requests = f"{rpm:,} requests ÷ {job.calls} calls = {sized.by_requests:,.1f} jobs/min"
    tokens = f"{tpm:,} tokens ÷ {job.tokens:,g} = {sized.by_tokens:,.1f}"
    reserve = f"{sizing.SIGMAS:g} √n in reserve"
    more = f"{sizing.BETWEEN - 1:.0%} more: between calls a job waits for confirms, the fence and a grant"
    cores = f"{sized.cores:,.2f} cores ({sizing.CPU_SECONDS * 1000:g} ms a job)"
    return [
        ("binding limit", sized.binding, f"{requests}, {tokens}"),
        ("jobs a minute", f"{sized.jobs_per_minute:,.1f}", f"{rate} at the binding limit"),
        ("calls in flight", calls, f"Little's law: {rate} × {job.latency:g} s, one call of a job at a time"),
        ("jobs in flight", f"{sized.jobs_in_flight:,.1f}", more),
        (
            "ECO2_CONCURRENCY",
            str(sized.concurrency),
            f"a worker's n calls (at most {sizing.WORKER_CALLS}, as measured) and {reserve}",
        ),
        ("ECO2_PREFETCH", str(sized.prefetch), f"a worker's n jobs and {reserve}"),
        (
            "replicas",
            str(sized.replicas),
            f"{sized.needed} for {calls} calls and {cores}, plus one that may fail",
        ),
        (
            "worker, MB",
            str(sized.worker_mb),
            f"{sizing.WORKER_MB:g} idle, {sizing.JOB_MB:g} for each job that it runs",
        ),
        (
            "gateway, MB",
            str(sized.gateway_mb),
            "with all ended jobs that it keeps; safe limits are twice these",
        ),
        ("pictures, MB", f"{DECODERS_MB:g}", "more in a gateway's limit, for decoding them"),
    ]
