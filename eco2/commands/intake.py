"""`eco2 pause` and `eco2 resume`: the intake of all workers, halted and let go on."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from eco2.commands import start

if TYPE_CHECKING:
    from eco2.event import Paused
    from eco2.settings import Settings


def pause(
    reason: Annotated[str, typer.Option(help="For people: `eco2 jobs list` and the workers show it.")] = "",
) -> None:
    """Halt the intake of all workers: they finish what they have, and take no more.

    Gateways keep accepting, and new jobs wait in their queue. Deadlines go on. Works across restarts as long
    as a worker runs.
    """
    settings = start.settings("error")
    before, running, queued = start.run(paused(settings, reason))
    again = " (it was paused before)" if before else ""
    typer.echo(
        f"Paused{again}. {running} in flight, which finish; {queued} wait in their queues, as new ones do.\n"
        f"Gateways keep accepting, and deadlines go on: what waits longer than {settings.job_deadline:g} s "
        f"(ECO2_JOB_DEADLINE) ends as failed with DEADLINE.\n"
        f"The workers keep the pause in mind; after {settings.view_minutes:g} minutes without any worker "
        "it is forgotten.\n"
        "`eco2 resume` lets them go on."
    )


def resume() -> None:
    """Let the workers take jobs again, after `eco2 pause`."""
    before, _, queued = start.run(resumed(start.settings("error")))
    if before is None:
        typer.echo("It was not paused. Workers take jobs.")
    else:
        typer.echo(f"Resumed. Workers take jobs again; {queued} wait.")


async def paused(settings: "Settings", reason: str) -> "tuple[Paused | None, int, int]":
    """What had paused the intake before; how many jobs are in flight, and how many wait."""
    from eco2.commands.session import session
    from eco2.commands.waiting import waiting
    from eco2.operator import intake

    async with session(settings, "pause") as here:
        with waiting("the journal to confirm the pause"):
            before = await intake.pause(here.journal, reason, time.time)
        return before, *intake.counts(here.journal.view)


async def resumed(settings: "Settings") -> "tuple[Paused | None, int, int]":
    """What had paused the intake; how many jobs are in flight, and how many wait."""
    from eco2.commands.session import session
    from eco2.commands.waiting import waiting
    from eco2.operator import intake

    async with session(settings, "resume") as here:
        with waiting("the journal to confirm"):
            before = await intake.resume(here.journal, time.time)
        return before, *intake.counts(here.journal.view)
