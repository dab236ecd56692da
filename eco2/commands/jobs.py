"""`eco2 jobs`: the recent jobs, one job in all detail, and an order once more."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from eco2.commands import start
from eco2.errors import PermanentError

if TYPE_CHECKING:
    from eco2.event import Paused
    from eco2.journal.state import JobState
    from eco2.operator.jobs import JobRow, Sheet
    from eco2.settings import Settings

app = typer.Typer(help="Jobs, as the journal tells of them.", no_args_is_help=True)

Status = Literal["queued", "running", "completed", "failed", "cancelled", "superseded"]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Job = Annotated[str, typer.Argument(help="A job, by id.", metavar="ID")]


@app.command("list")
def show_list(
    status: Annotated[Status | None, typer.Option(help="Only jobs that are so.")] = None,
    pipeline: Annotated[str | None, typer.Option(help="Only jobs of this pipeline.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 100,
    json: Json = False,
) -> None:
    """List the jobs that were accepted in the last ECO2_VIEW_MINUTES, oldest first."""
    from eco2.commands import tables

    rows, paused = start.run(listed(start.settings("error"), status, pipeline))
    shown = rows[-limit:]
    if json:
        halt = {"since": paused.ts, "reason": paused.reason} if paused else None
        tables.as_json({"paused": halt, "total": len(rows), "jobs": [row.document() for row in shown]})
        return
    out = tables.console()
    if paused is not None:
        out.print(tables.banner(paused), style="bold yellow")
    out.print(tables.jobs(shown) if shown else "No such jobs in the last minutes (ECO2_VIEW_MINUTES).")
    if len(shown) < len(rows):
        out.print(f"These are the newest {len(shown)} of {len(rows)}; --limit shows more.")


@app.command("show")
def show(job: Job, json: Json = False) -> None:
    """Show all of one job, also of an older one: its runs, stages and events, and who has it now."""
    from eco2.commands import tables

    sheet = start.run(described(start.settings("error"), job))
    if json:
        tables.as_json(sheet.document())
    else:
        tables.sheet(sheet, tables.console())


@app.command("reissue")
def reissue(job: Job) -> None:
    """Publish a job's order once more, for a job that waits though no queue has its order.

    Workers do the same by themselves after a minute. It is harmless when the order was not lost: the job
    still runs once. The order goes into the queue of what goes first.
    """
    start.run(reissued(start.settings("error"), job))
    typer.echo(f"{job}  is ordered again; `eco2 jobs show {job}` tells how it goes on")


async def listed(
    settings: "Settings", status: str | None, pipeline: str | None
) -> "tuple[list[JobRow], Paused | None]":
    """The recent jobs, and why the intake is halted, if it is. Raises `PermanentError` for a pipeline that
    is neither set up here nor in any recent job."""
    from eco2.commands.session import session
    from eco2.operator.jobs import check_pipeline, rows

    async with session(settings, "jobs list") as here:
        check_pipeline(pipeline, here.pipelines, here.journal.view)
        return rows(here.journal.view, status, pipeline), here.journal.view.paused


async def described(settings: "Settings", job: str) -> "Sheet":
    """All that is known of the job. Raises `PermanentError` if that is nothing."""
    from eco2.commands.session import session
    from eco2.commands.sheet import sheet

    async with session(settings, "jobs show") as here:
        return await sheet(here, _known(job, await here.journal.find(job)))


async def reissued(settings: "Settings", job: str) -> None:
    """Orders the job again. Raises `PermanentError` where that makes no sense."""
    from eco2.commands.session import session
    from eco2.commands.waiting import waiting
    from eco2.operator.reissue import reissue as order_again

    async with session(settings, "jobs reissue") as here:
        state = _known(job, await here.journal.find(job))
        with waiting(f"the order store, for the order of {job}"):
            await order_again(state, here.broker)


def _known(job: str, state: "JobState | None") -> "JobState":
    if state is None:
        raise PermanentError(
            f"the journal knows no job {job}; `eco2 jobs list` shows the recent ones", "UNKNOWN"
        )
    return state
