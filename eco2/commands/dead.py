"""`eco2 dead`: list and show dead letters, drop them, or replay their jobs."""

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from eco2.commands import bootstrap
from eco2.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from eco2.commands.session import OperatorSession
    from eco2.job import JSON
    from eco2.operator.dead_jobs import DeadJob, DeadRow
    from eco2.operator.jobs import JobDetail
    from eco2.settings import Settings

app = typer.Typer(
    help="Show, drop and replay dead letters: orders of failed jobs that may succeed later.\n\n"
    "A job's order becomes a dead letter if a stage has a bug, the provider is unavailable or rejects our "
    "key, the job keeps crashing its worker, or its message cannot be decoded. Its client has received the "
    "failure.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(help="Ids of jobs.", metavar="ID...")]
All = Annotated[bool, typer.Option("--all", help="Take all jobs of the list.")]
Limit = Annotated[int, typer.Option(min=1, max=65_535, help="Read at most this many letters, oldest first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Row = TypeVar("Row")


@app.command("list")
def show_list(limit: Limit = 1000, json: Json = False) -> None:
    """List the dead jobs: why and when they failed, the last stage, and the cost.

    A job with several letters is one row. Nothing is changed.
    """
    from eco2.commands import tables
    from eco2.operator.cost import document

    rows, count = bootstrap.run(read_list(bootstrap.settings("error"), limit))
    if json:
        tables.print_json({"letters": count, "jobs": [document(row) for row in rows]})
        return
    out = tables.console()
    if not rows:
        out.print("No dead letters.")
        return
    out.print(tables.dead_table(rows))
    shown = sum(row.letters for row in rows)
    if shown < count:
        out.print(f"These are the oldest {shown} of {count} letters; --limit shows more.")


@app.command("show")
def show(
    job: Annotated[str, typer.Argument(help="The id of a job in the list.", metavar="ID")],
    limit: Limit = 1000,
    json: Json = False,
) -> None:
    """Show one dead job: its letters, its order (long values cut), and its state in the journal."""
    from eco2.commands import tables
    from eco2.operator.cost import document

    row, letters, order, detail = bootstrap.run(read_detail(bootstrap.settings("error"), job, limit))
    if json:
        journal = detail.document() if detail else None
        tables.print_json({**document(row), "letters": letters, "order": order, "journal": journal})
        return
    out = tables.console()
    tables.print_letters(row, letters, order, out)
    out.print()
    if detail is None:
        out.print("The journal does not have this job (any more).")
    else:
        tables.print_detail(detail, out)


@app.command("drop")
def drop(
    ids: Ids = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    limit: Limit = 1000,
) -> None:
    """Delete all letters of these jobs. The jobs stay failed; they cannot be replayed afterwards."""
    from eco2.commands import tables

    require_selection(ids, everything)
    settings = bootstrap.settings("error")
    rows, _ = bootstrap.run(read_list(settings, limit, ids))
    out = tables.console()
    if not rows:
        out.print("No dead letters.")
        return
    out.print(tables.dead_table(rows))
    if not (yes or agreed(f"Delete the letters of {number_of_jobs(len(rows))}?")):
        out.print("Nothing was dropped. --yes drops without asking.")
        raise typer.Exit(130)
    count = bootstrap.run(drop_letters(settings, {row.job for row in rows}, limit))
    out.print(f"Dropped {count} {'letter' if count == 1 else 'letters'} of {number_of_jobs(len(rows))}.")


@app.command("replay")
def replay(
    ids: Ids = None,
    everything: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan and its cost.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Replayed jobs that may be unended at one time.")] = 50,
    limit: Limit = 1000,
) -> None:
    """Continue these jobs as new jobs, after the last stage that each completed.

    Prints first what was paid and what the replay will cost. The new job has the same input, owner and
    model, a new id, and its time begins anew; the old one stays failed. Jobs that failed without a dead
    letter, as EXPIRED or TIMEOUT: `eco2 jobs replay`. If the command is interrupted, nothing is lost: run it
    again, and it continues from there.
    """
    from eco2.terminal import visible

    require_selection(ids, everything)
    settings = bootstrap.settings("error")
    refused = bootstrap.run(
        replay_jobs(
            settings,
            ids,
            lambda line: typer.echo(visible(line)),
            dry_run=dry_run,
            at_once=at_once,
            limit=limit,
        )
    )
    refuse(refused)


async def read_list(
    settings: "Settings", limit: int, ids: Sequence[str] | None = None
) -> "tuple[list[DeadRow], int]":
    """Returns the dead jobs with these ids (None: all), and the number of all letters."""
    from eco2.commands.session import open_session
    from eco2.operator.dead_jobs import dead_row

    async with open_session(settings, "dead list", settings.view_minutes * 60) as session:
        jobs, count = await read_dead_jobs(session, limit)
        selected = select({job.id: job for job in jobs}, ids)
        states = await session.find(job.id for job in selected)
        recent = session.journal.view.recent()
        return [dead_row(job, states[job.id], recent) for job in selected], count


async def read_detail(
    settings: "Settings", job: str, limit: int
) -> "tuple[DeadRow, list[JSON], object, JobDetail | None]":
    """Returns a dead job's row, its letters, its order, and its detail by the journal."""
    import msgspec

    from eco2.commands.job_detail import job_detail
    from eco2.commands.session import open_session
    from eco2.operator.dead_jobs import dead_row
    from eco2.operator.jobs import shortened

    async with open_session(settings, "dead show", settings.view_minutes * 60) as session:
        jobs, _ = await read_dead_jobs(session, limit)
        (dead,) = select({each.id: each for each in jobs}, [job])
        state = (await session.find([job]))[job]
        letters: list[JSON] = [
            {
                "queue": letter.queue,
                "reason": letter.reason,
                "when": letter.when,
                "count": letter.count,
                "bytes": len(letter.body),
            }
            for letter in dead.letters
        ]
        return (
            dead_row(dead, state, session.journal.view.recent()),
            letters,
            shortened(msgspec.to_builtins(dead.order)) if dead.order else dead.unreadable,
            await job_detail(session, state) if state else None,
        )


async def drop_letters(settings: "Settings", jobs: Collection[str], limit: int) -> int:
    """Deletes the letters of these jobs, and returns their number."""
    from eco2.commands.session import open_session
    from eco2.operator.dead_jobs import by_job

    count = 0
    async with open_session(settings, "dead drop") as session, session.letters(limit) as letters:
        for dead in by_job(letters):
            for letter in dead.letters if dead.id in jobs else ():
                await letter.drop()
                count += 1
    return count


async def replay_jobs(
    settings: "Settings",
    ids: Sequence[str] | None,
    report: Callable[[str], None],
    *,
    dry_run: bool,
    at_once: int,
    limit: int,
) -> int:
    """Replays the dead jobs (None: all), reports each step, and returns how many cannot be replayed."""
    from eco2.commands.replay import replay_all
    from eco2.commands.session import open_session
    from eco2.operator.dead_jobs import by_job

    async with (
        open_session(settings, "dead replay", settings.view_minutes * 60) as session,
        session.letters(limit) as letters,
    ):
        await session.journal.barrier()  # shows what an earlier replay did before it released the letters
        dead = select({job.id: job for job in by_job(letters)}, ids)
        states = await session.find(job.id for job in dead)
        replayed = await replay_all(session, dead, states, report, dry_run=dry_run, at_once=at_once)
        return replayed.refused


async def read_dead_jobs(session: "OperatorSession", limit: int) -> "tuple[list[DeadJob], int]":
    """Returns the dead jobs and the number of all letters; the letters go back to their queue."""
    from eco2.commands.spinner import spinner
    from eco2.operator.dead_jobs import by_job
    from eco2.ports import DEAD

    with spinner("the dead letters"):
        count = await session.broker.depth(DEAD)
        async with session.letters(limit) as letters:
            return by_job(letters), max(count, len(letters))


def select(rows: dict[str, Row], ids: Sequence[str] | None) -> list[Row]:
    """Returns the rows with these ids; all without ids. Raises `PermanentError` for an unknown id."""
    if not ids:
        return list(rows.values())
    if unknown := [job for job in ids if job not in rows]:
        raise PermanentError(
            f"no dead letter of {', '.join(unknown)} here; see `eco2 dead list` (--limit reads more), and "
            "`eco2 jobs replay` for jobs that failed without a dead letter",
            "UNKNOWN",
        )
    return [rows[job] for job in dict.fromkeys(ids)]


def require_selection(ids: Sequence[str] | None, everything: bool) -> None:
    """Raises `ConfigurationError` unless either ids or --all are given."""
    if bool(ids) == everything:
        raise ConfigurationError("name the jobs: give their ids, or --all")


def refuse(jobs: int) -> None:
    """Raises `PermanentError` if some jobs cannot be replayed."""
    if jobs:
        raise PermanentError(f"{number_of_jobs(jobs)} cannot be replayed; the lines above say why", "REFUSED")


def agreed(question: str) -> bool:
    """Asks the user; False also if standard input is closed."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def number_of_jobs(count: int) -> str:
    """Returns the number with its noun."""
    return "1 job" if count == 1 else f"{count} jobs"
