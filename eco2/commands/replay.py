"""Replays failed jobs: prices all of them first, then continues each as a new job."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from eco2.brokers import longest_life
from eco2.commands import tables
from eco2.commands.session import OperatorSession, open_session
from eco2.commands.spinner import spinner
from eco2.errors import PermanentError
from eco2.job import id_time
from eco2.journal.state import JobState
from eco2.operator import actions
from eco2.operator.dead_jobs import DeadJob, by_job
from eco2.operator.jobs import check_pipeline
from eco2.operator.replay_plan import NotReplayable, ReplayPlan, failed_jobs, plan_replay
from eco2.settings import Settings

MAX_SEARCHES = 4
"""Searches for orders at once; each is a reader at the broker."""
PAUSED = "the intake is paused, so replayed jobs would wait and could expire: run `eco2 resume` first"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Names jobs to replay: by `ids`, or all that failed in the last `since` seconds and fit the rest.

    `since`: None for as long as orders are kept. At most `limit`, oldest first.
    """

    ids: Sequence[str] = ()
    pipeline: str | None = None
    code: str | None = None
    since: float | None = None
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Replayed:
    """`jobs`: those that can be replayed, or were. `refused`: how many cannot. `paused`: so is the intake."""

    jobs: Sequence[str]
    refused: int
    paused: bool


async def replay_failed(
    settings: Settings,
    wanted: Wanted,
    report: Callable[[str], None],
    *,
    dry_run: bool,
    at_once: int,
    priced: bool = False,
) -> Replayed:
    """Replays failed jobs, from their dead letters or stored orders, and reports each step.

    `priced`: the plans were reported before. Raises `PermanentError` for an unknown pipeline, or if the
    intake is paused and this is no dry run.
    """
    from eco2 import assembly, brokers

    loaded, now = assembly.pipelines(settings), time.time()
    since = wanted.since or brokers.topology(settings, loaded).inputs_hours * 3600.0
    if wanted.ids:
        since = max(now - (id_time(job) or now) for job in wanted.ids)
    reach = max(since + longest_life(settings, loaded), settings.view_minutes * 60)
    async with (
        open_session(settings, "jobs replay", reach) as session,
        session.letters(wanted.limit) as letters,
    ):
        await session.journal.barrier()  # shows what an earlier replay did before it released the letters
        if wanted.ids:
            states = await session.find(dict.fromkeys(wanted.ids))
        else:
            recent = session.journal.view.recent()
            check_pipeline(wanted.pipeline, session.pipelines, recent)
            failed, before = failed_jobs(recent, now - since, wanted.pipeline, wanted.code)
            if before:
                report(f"Jobs that were replayed before, and are left out: {before}.")
            if len(failed) > wanted.limit:
                report(f"These are the oldest {wanted.limit} of {len(failed)}: run it again for the others.")
            states = {state.job: state for state in failed[: wanted.limit]}
        found = await find_orders(session, states, {job.id: job for job in by_job(letters)})
        return await replay_all(
            session, found, states, report, dry_run=dry_run, at_once=at_once, priced=priced
        )


async def find_orders(
    session: OperatorSession, states: Mapping[str, JobState | None], dead: Mapping[str, DeadJob]
) -> list[DeadJob | NotReplayable]:
    """Finds the orders of these jobs, among the dead letters or in the order store."""
    searches, hours = asyncio.Semaphore(MAX_SEARCHES), session.topology.inputs_hours

    async def find(job: str, state: JobState | None) -> DeadJob | NotReplayable:
        if job in dead:
            return dead[job]
        async with searches:
            return await actions.stored_job(job, state, session.broker, hours)

    with spinner(f"the orders of {len(states)} jobs"):
        return await asyncio.gather(*(find(job, state) for job, state in states.items()))


async def replay_all(
    session: OperatorSession,
    found: Sequence[DeadJob | NotReplayable],
    states: Mapping[str, JobState | None],
    report: Callable[[str], None],
    *,
    dry_run: bool,
    at_once: int,
    priced: bool = False,
) -> Replayed:
    """Reports the plan and price of every job (unless `priced`), then replays all that can be."""
    view, settings = session.journal.view, session.settings
    paused, recent = view.paused is not None, view.recent()
    if paused and not dry_run:
        raise PermanentError(PAUSED, "PAUSED")

    def planned(job: DeadJob) -> ReplayPlan | NotReplayable:
        known, times = [*view, *recent], (settings.max_wait, settings.timeout)
        return plan_replay(job, states[job.id], session.pipelines, known, time.time(), *times)

    answers = [each if isinstance(each, NotReplayable) else planned(each) for each in found]
    plans = [answer for answer in answers if isinstance(answer, ReplayPlan)]
    for answer in answers:
        if not priced or isinstance(answer, NotReplayable):
            report(tables.replay_lines(answer))
    if not plans:
        report("Nothing to replay.")
    elif not priced:
        report(tables.replay_cost(plans, settings.rpm, settings.tpm))
    started: list[str] = []
    for each in () if dry_run else plans:
        with spinner(f"one of {at_once} replayed jobs to end"):
            await actions.wait_for_capacity(session.journal, started, at_once)
        plan = planned(each.dead)  # again, since its time counts from now
        if isinstance(plan, ReplayPlan):
            with spinner(f"the broker to confirm the replay of {each.dead.id}"):
                started.append(await actions.replay(plan, session.broker, session.journal))
            report(f"{each.dead.id}  continues as {started[-1]}")
    return Replayed([each.dead.id for each in plans], len(answers) - len(plans), paused)
