"""`eco2 dead`: look at the orders of jobs that ended unhappily, throw them away, or let them go on."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from eco2.commands import start
from eco2.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from eco2.commands.session import Session
    from eco2.job import JSON
    from eco2.operator.dead import DeadRow
    from eco2.operator.jobs import Sheet
    from eco2.operator.letters import DeadJob
    from eco2.operator.plan import Plan, Refusal
    from eco2.settings import Settings

app = typer.Typer(
    help="Dead letters: the orders of jobs that failed and may succeed once something is mended.\n\n"
    "A job gets here by a bug in a stage, a provider that stayed away or refuses us, a worker that crashed "
    "of it, or an order that nobody could read. Its client was told that it failed.",
    no_args_is_help=True,
)

Ids = Annotated[list[str] | None, typer.Argument(help="Jobs, by id.", metavar="ID...")]
All = Annotated[bool, typer.Option("--all", help="All jobs of the list.")]
Limit = Annotated[int, typer.Option(min=1, max=65_535, help="Look at the oldest so many letters.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

Told = Callable[[str], None]
Row = TypeVar("Row")


@app.command("list")
def show_list(limit: Limit = 1000, json: Json = False) -> None:
    """List the dead jobs: why they failed, when, how far they got and what they cost.

    Several letters of one job are one row. Looking changes nothing.
    """
    from eco2.commands import tables

    rows, there = start.run(listed(start.settings("error"), limit))
    if json:
        tables.as_json({"letters": there, "jobs": [row.document() for row in rows]})
        return
    out = tables.console()
    if not rows:
        out.print("No dead letters.")
        return
    out.print(tables.dead(rows))
    seen = sum(row.letters for row in rows)
    if seen < there:
        out.print(f"These are the oldest {seen} of {there} letters; --limit shows more.")


@app.command("show")
def show(
    job: Annotated[str, typer.Argument(help="A job of the list, by id.", metavar="ID")],
    limit: Limit = 1000,
    json: Json = False,
) -> None:
    """Show all of one dead job: its letters, its order (long values cut), and what the journal says."""
    from eco2.commands import tables

    row, letters, order, sheet = start.run(described(start.settings("error"), job, limit))
    if json:
        journal = sheet.document() if sheet else None
        tables.as_json({**row.document(), "letters": letters, "order": order, "journal": journal})
        return
    out = tables.console()
    tables.letters(row, letters, order, out)
    out.print()
    if sheet is None:
        out.print("The journal does not know this job, or not any more.")
    else:
        tables.sheet(sheet, out)


@app.command("drop")
def drop(
    ids: Ids = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    limit: Limit = 1000,
) -> None:
    """Throw away all letters of these jobs, for ever. What clients were told stands."""
    from eco2.commands import tables

    _named(ids, everything)
    settings = start.settings("error")
    chosen, _ = start.run(listed(settings, limit, ids))
    out = tables.console()
    if not chosen:
        out.print("No dead letters.")
        return
    out.print(tables.dead(chosen))
    if not yes and not _agreed(f"Drop {_jobs(len(chosen))} for ever?"):
        out.print("Nothing was dropped. --yes drops without asking.")
        raise typer.Exit(130)
    letters = start.run(dropped(settings, {row.job for row in chosen}, limit))
    out.print(f"Dropped {letters} {'letter' if letters == 1 else 'letters'} of {_jobs(len(chosen))}.")


@app.command("replay")
def replay(
    ids: Ids = None,
    everything: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would happen and cost.")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="Replays that may be unfinished at one time.")] = 50,
    limit: Limit = 1000,
) -> None:
    """Let these jobs go on, each as a new job behind the stages that the old one completed.

    First it says what was paid already and what it will cost. The new job has the same input, owner and
    model, a fresh deadline, and an id of its own; the old one's end stands. If this is interrupted, nothing
    is lost: run it again, and it goes on from there.
    """
    _named(ids, everything)
    refused = start.run(
        replayed(start.settings("error"), ids, _say, dry_run=dry_run, at_once=at_once, limit=limit)
    )
    if refused:
        raise PermanentError(f"{_jobs(refused)} cannot be replayed; the lines above say why", "REFUSED")


async def listed(
    settings: "Settings", limit: int, ids: Sequence[str] | None = None
) -> "tuple[list[DeadRow], int]":
    """The dead jobs of these ids (None: all), and how many letters there are."""
    from eco2.commands.session import session
    from eco2.operator.dead import row

    async with session(settings, "dead list") as here:
        found, there = await _look(here, limit)
        dead = _chosen({job.id: job for job in found}, ids)
        states = await here.find(job.id for job in dead)
        return [row(job, states[job.id], here.journal.view) for job in dead], there


async def described(
    settings: "Settings", job: str, limit: int
) -> "tuple[DeadRow, list[JSON], object, Sheet | None]":
    """All of one dead job: its row, its letters, its order, and what the journal says of it."""
    import msgspec

    from eco2.commands.session import session
    from eco2.commands.sheet import sheet
    from eco2.operator.dead import row
    from eco2.operator.jobs import shortened

    async with session(settings, "dead show") as here:
        dead, _ = await _look(here, limit)
        (found,) = _chosen({each.id: each for each in dead}, [job])
        state = (await here.find([job]))[job]
        order = shortened(msgspec.to_builtins(found.order)) if found.order else None
        letters: list[JSON] = [
            {
                "queue": letter.queue,
                "reason": letter.reason,
                "when": letter.when,
                "count": letter.count,
                "bytes": len(letter.body),
            }
            for letter in found.letters
        ]
        return (
            row(found, state, here.journal.view),
            letters,
            order if found.order else found.unreadable,
            await sheet(here, state) if state else None,
        )


async def dropped(settings: "Settings", jobs: Collection[str], limit: int) -> int:
    """How many letters of these jobs are gone now."""
    from eco2.commands.session import session
    from eco2.operator.letters import by_job

    count = 0
    async with session(settings, "dead drop") as here, here.letters(limit) as letters:
        for dead in by_job(letters):
            for letter in dead.letters if dead.id in jobs else ():
                await letter.drop()
                count += 1
    return count


async def replayed(
    settings: "Settings",
    ids: Sequence[str] | None,
    tell: Told,
    *,
    dry_run: bool,
    at_once: int,
    limit: int,
) -> int:
    """Replays the jobs (None: all) and tells of each step; returns how many cannot be replayed."""
    from eco2.commands import tables
    from eco2.commands.session import session
    from eco2.commands.waiting import waiting
    from eco2.operator import replay as steps
    from eco2.operator.letters import by_job
    from eco2.operator.plan import Plan, plan

    async with session(settings, "dead replay") as here:
        view = here.journal.view
        if view.paused is not None and not dry_run:
            raise PermanentError(
                "the intake is paused, and deadlines go on: a replay would only end. First: `eco2 resume`",
                "PAUSED",
            )
        async with here.letters(limit) as letters:
            await here.journal.barrier()  # what another replay did before it let the letters go, is seen
            dead = _chosen({job.id: job for job in by_job(letters)}, ids)
            states = await here.find(job.id for job in dead)

            def planned(job: "DeadJob") -> "Plan | Refusal":
                return plan(
                    job, states[job.id], here.pipelines, tuple(view), time.time(), settings.job_deadline
                )

            first = [planned(job) for job in dead]
            for each in first:
                tell(tables.plan(each))
            plans = [each for each in first if isinstance(each, Plan)]
            tell(tables.bill(plans) if plans else "Nothing to replay.")
            begun: list[str] = []
            for each in () if dry_run else plans:
                with waiting(f"room: {at_once} replays are unfinished"):
                    await steps.room(here.journal, begun, at_once)
                fresh = planned(each.dead)  # its time begins now
                if isinstance(fresh, Plan):
                    with waiting(f"the broker to confirm the replay of {each.dead.id}"):
                        begun.append(await steps.replay(fresh, here.broker, here.journal))
                    tell(f"{each.dead.id}  goes on as {begun[-1]}")
        return len(first) - len(plans)


async def _look(here: "Session", limit: int) -> "tuple[list[DeadJob], int]":
    """The dead jobs as they are now, and how many letters there are. The letters are back at the broker."""
    from eco2.commands.waiting import waiting
    from eco2.operator.letters import by_job
    from eco2.ports import DEAD

    with waiting("the dead letters"):
        there = await here.broker.depth(DEAD)
        async with here.letters(limit) as letters:
            return by_job(letters), max(there, len(letters))


def _chosen(found: dict[str, Row], ids: Sequence[str] | None) -> list[Row]:
    """Those of these ids, all without ids."""
    if not ids:
        return list(found.values())
    if unknown := [job for job in ids if job not in found]:
        raise PermanentError(
            f"no dead letter of {', '.join(unknown)} here; see `eco2 dead list` (--limit looks at more)",
            "UNKNOWN",
        )
    return [found[job] for job in dict.fromkeys(ids)]


def _named(ids: Sequence[str] | None, everything: bool) -> None:
    if bool(ids) == everything:
        raise ConfigurationError("say which jobs: their ids, or --all")


def _agreed(question: str) -> bool:
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def _jobs(count: int) -> str:
    return "1 job" if count == 1 else f"{count} jobs"


def _say(line: str) -> None:
    from eco2.terminal import visible

    typer.echo(visible(line))
