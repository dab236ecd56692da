"""`eco2 jobs`: list the recent jobs, show one in detail, cancel one, publish a job's order again."""

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco2.commands import bootstrap
from eco2.errors import PermanentError

if TYPE_CHECKING:
    from eco2.event import Paused
    from eco2.journal.state import JobState
    from eco2.operator.jobs import JobDetail, JobRow
    from eco2.settings import Settings

app = typer.Typer(help="Show jobs by their state in the journal.", no_args_is_help=True)

Status = Literal["queued", "running", "completed", "failed", "cancelled", "superseded"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Job = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]


@app.command("list")
def show_list(
    status: Annotated[Status | None, typer.Option(help="Show only jobs with this status.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Show only jobs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many jobs, the newest ones.")] = 100,
    json: Json = False,
) -> None:
    """List the jobs that have not ended, and those accepted in the last ECO2_VIEW_MINUTES, oldest first."""
    from eco2.commands import tables
    from eco2.operator.cost import document

    rows, paused = bootstrap.run(read_list(bootstrap.settings("error"), status, pipeline))
    shown = rows[-limit:]
    if json:
        pause = {"since": paused.ts, "reason": paused.reason} if paused else None
        tables.print_json({"paused": pause, "total": len(rows), "jobs": [document(row) for row in shown]})
        return
    out = tables.console()
    if paused is not None:
        out.print(tables.pause_banner(paused), style="bold yellow")
    out.print(
        tables.job_table(shown)
        if shown
        else "No such jobs have not ended, or were accepted in the last minutes (ECO2_VIEW_MINUTES)."
    )
    if len(shown) < len(rows):
        out.print(f"These are the newest {len(shown)} of {len(rows)}; --limit shows more.")


@app.command("show")
def show(job: Job, json: Json = False) -> None:
    """Show one job: its runs, stages and events, and the worker that has it now.

    Also shows jobs older than ECO2_VIEW_MINUTES, while the journal keeps them.
    """
    from eco2.commands import tables

    detail = bootstrap.run(read_detail(bootstrap.settings("error"), job))
    if json:
        tables.print_json(detail.document())
    else:
        tables.print_detail(detail, tables.console())


@app.command("reissue")
def reissue(job: Job) -> None:
    """Publish a job's order again, if the job waits but no queue has its order.

    Workers do the same by themselves after a minute. If the order was not lost, this is harmless: the job
    still runs once.
    """
    bootstrap.run(reissue_order(bootstrap.settings("error"), job))
    typer.echo(f"{job}  was published again; `eco2 jobs show {job}` shows its progress")


@app.command("cancel")
def cancel(job: Job) -> None:
    """Cancel a job, whatever it waits for. A call in flight is broken off, and costs what it took so far."""
    bootstrap.run(cancel_job(bootstrap.settings("error"), job))
    typer.echo(f"{job}  is cancelled")


async def read_list(
    settings: "Settings", status: str | None, pipeline: str | None
) -> "tuple[list[JobRow], Paused | None]":
    """Returns the recent jobs, and the pause if one is in force.

    Raises `PermanentError` for a pipeline that is neither configured here nor of a recent job.
    """
    from eco2.commands.session import open_session
    from eco2.operator.jobs import check_pipeline, job_rows

    async with open_session(settings, "jobs list") as session:
        jobs = session.journal.view.recent()
        check_pipeline(pipeline, session.pipelines, jobs)
        return job_rows(jobs, status, pipeline), session.journal.view.paused


async def read_detail(settings: "Settings", job: str) -> "JobDetail":
    """Returns the job's detail. Raises `PermanentError` if the journal does not have it."""
    from eco2.commands.job_detail import job_detail
    from eco2.commands.session import open_session

    async with open_session(settings, "jobs show") as session:
        return await job_detail(session, require_known(job, await session.journal.find(job)))


async def reissue_order(settings: "Settings", job: str) -> None:
    """Publishes the job's order again. Raises `PermanentError` if that makes no sense."""
    from eco2.commands.session import open_session
    from eco2.commands.spinner import spinner
    from eco2.operator import actions

    async with open_session(settings, "jobs reissue") as session:
        state = require_known(job, await session.journal.find(job))
        with spinner(f"the order of {job} in the order store"):
            await actions.reissue(state, session.broker)


async def cancel_job(settings: "Settings", job: str) -> None:
    """Cancels the job. Raises `PermanentError` if the journal does not have it, or it ended otherwise."""
    from eco2.commands.session import open_session
    from eco2.operator import actions

    async with open_session(settings, "jobs cancel") as session:
        state = require_known(job, await session.journal.find(job))
        await actions.cancel(state, session.journal, time.time())


def require_known(job: str, state: "JobState | None") -> "JobState":
    """Returns the state. Raises `PermanentError` if the journal has none."""
    if state is None:
        raise PermanentError(
            f"the journal knows no job {job}; `eco2 jobs list` shows the recent ones", "UNKNOWN"
        )
    return state
