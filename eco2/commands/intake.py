"""`eco2 pause` and `eco2 resume`: stop all workers from taking jobs, and let them take jobs again."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from eco2.commands import bootstrap

if TYPE_CHECKING:
    from eco2.event import Paused, Resumed
    from eco2.settings import Settings


def pause(
    reason: Annotated[str, typer.Option(help="Shown by `eco2 jobs list` and in the workers' logs.")] = "",
) -> None:
    """Stop all workers from taking new jobs; they finish the jobs that they have.

    Gateways keep accepting jobs, which wait in the queue, at most for their max_wait. The pause outlasts
    restarts as long as one worker runs.
    """
    from eco2.event import Paused

    settings = bootstrap.settings("error")
    event = Paused(ts=time.time(), reason=reason)
    before, running, queued = bootstrap.run(set_intake(settings, event))
    again = " (it was paused before)" if before else ""
    typer.echo(
        f"Paused{again}. {running} jobs are running and will finish; {queued} wait in the queue.\n"
        f"Gateways keep accepting jobs. A job that waits longer than {settings.max_wait:g} s "
        f"(ECO2_MAX_WAIT, unless its pipeline says otherwise) fails with EXPIRED.\n"
        f"The pause is forgotten after {settings.view_minutes:g} minutes without any running worker.\n"
        "To end the pause: `eco2 resume`."
    )


def resume() -> None:
    """Let the workers take jobs again, after `eco2 pause`."""
    from eco2.event import Resumed

    before, _, queued = bootstrap.run(set_intake(bootstrap.settings("error"), Resumed(ts=time.time())))
    if before is None:
        typer.echo("It was not paused. Workers take jobs.")
    else:
        typer.echo(f"Resumed. Workers take jobs again; {queued} wait in the queue.")


async def set_intake(settings: "Settings", event: "Paused | Resumed") -> "tuple[Paused | None, int, int]":
    """Pauses or resumes; returns the pause that was in force before, and the running and waiting jobs."""
    from eco2.commands.session import open_session
    from eco2.commands.spinner import spinner
    from eco2.event import Paused
    from eco2.operator import actions
    from eco2.operator.jobs import count_jobs

    command = "pause" if isinstance(event, Paused) else "resume"
    async with open_session(settings, command) as session:
        with spinner("the journal to confirm"):
            before = await actions.set_intake(session.journal, event)
        return before, *count_jobs(session.journal.view.recent())
