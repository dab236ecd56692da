"""`eco2 jobs`: list the recent jobs, show one in detail, cancel one, publish its order again, replay it."""

import time
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco2.commands import bootstrap
from eco2.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from eco2.event import Paused
    from eco2.journal.state import JobState
    from eco2.operator.jobs import JobDetail, JobRow
    from eco2.settings import Settings

app = typer.Typer(
    help="Show jobs by their state in the journal; cancel them, or replay those that failed.",
    no_args_is_help=True,
)

Status = Literal["queued", "running", "completed", "failed", "cancelled", "superseded"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
Job = Annotated[str, typer.Argument(help="The job's id.", metavar="ID")]


def seconds(text: str) -> float:
    """Returns a duration such as `30m` in seconds."""
    number, unit = text[:-1], SECONDS.get(text[-1:])
    if unit is None or not number.isascii() or not number.isdigit() or int(number) == 0:
        raise typer.BadParameter(f"{text!r} is no duration: use 90s, 30m, 2h or 1d")
    return float(int(number) * unit)


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


@app.command("replay")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of failed jobs.", metavar="ID...")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Replay the failed jobs of this pipeline.")] = None,
    code: Annotated[str | None, typer.Option(help="Replay the jobs that failed with this code.")] = None,
    since: Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="DURATION",
            help="Replay the jobs that failed since then: 90s, 30m, 2h, 1d.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan and its price.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Replayed jobs that may be unended at one time.")] = 50,
    limit: Annotated[
        int, typer.Option(min=1, max=65_535, help="Replay at most this many, oldest first.")
    ] = 1000,
) -> None:
    """Continue failed jobs as new jobs, after the last stage that each completed.

    Name them by their ids, or by filters, which all must fit; without --since those that failed while
    their orders were kept (an hour and more). Prints first how many there are, what they will cost, and their
    time at the budget, and which cannot be replayed any more. A job that was replayed before is left out.
    """
    from eco2.commands.dead import agreed, number_of_jobs, refuse
    from eco2.commands.replay import PAUSED, Wanted, replay_failed
    from eco2.terminal import visible

    filters = (pipeline, code, since)
    if bool(ids) == any(each is not None for each in filters):
        raise ConfigurationError("name the jobs: give their ids, or --pipeline, --code, --since")
    settings = bootstrap.settings("error")

    def report(line: str) -> None:
        typer.echo(visible(line))

    wanted = Wanted(ids or (), *filters, limit)
    found = bootstrap.run(
        replay_failed(settings, wanted, report, dry_run=dry_run or not yes, at_once=at_once)
    )
    if found.jobs and not (dry_run or yes):
        if found.paused:
            raise PermanentError(PAUSED, "PAUSED")
        if not agreed(f"Replay {number_of_jobs(len(found.jobs))}?"):
            typer.echo("Nothing was replayed. --yes replays without asking.")
            raise typer.Exit(130)
        chosen = Wanted(found.jobs, limit=limit)
        bootstrap.run(replay_failed(settings, chosen, report, dry_run=False, at_once=at_once, priced=True))
    refuse(found.refused)


async def read_list(
    settings: "Settings", status: str | None, pipeline: str | None
) -> "tuple[list[JobRow], Paused | None]":
    """Returns the recent jobs, and the pause if one is in force.

    Raises `PermanentError` for a pipeline that is neither configured here nor of a recent job.
    """
    from eco2.commands.session import open_session
    from eco2.operator.jobs import check_pipeline, job_rows

    async with open_session(settings, "jobs list", settings.view_minutes * 60) as session:
        jobs = session.journal.view.recent()
        check_pipeline(pipeline, session.pipelines, jobs)
        return job_rows(jobs, status, pipeline), session.journal.view.paused


async def read_detail(settings: "Settings", job: str) -> "JobDetail":
    """Returns the job's detail. Raises `PermanentError` if the journal does not have it."""
    from eco2.commands.job_detail import job_detail
    from eco2.commands.session import open_session

    async with open_session(settings, "jobs show", settings.view_minutes * 60) as session:
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
