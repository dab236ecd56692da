"""Actions of operators: replay a failed job, cancel one, publish an order again, pause and resume.

A replay continues a failed job as a new one, after the stages that the old one completed; the old one stays
ended. Order of writes: the order is stored → `queued` is confirmed and seen in the own tail → the order is
published to the express queue → the letters are dropped. A crash between any two loses nothing:

* after the order is stored: no job refers to that order; all letters are kept;
* after `queued`: the sweep publishes the job's order within two minutes; the letters are kept, and the next
  replay continues with that same job;
* after the order is published: the job runs; the letters are kept, and the next replay drops them;
* after some letters are dropped: the same, for the rest.

A job without letters is replayed from its stored order, and the same holds without the last step. The next
replay finds that new job while its view reaches back to it; later it makes another one.

Publishing an order again is harmless if it was not lost: a worker that has the job keeps one of the two, a
worker that finds it held waits for its end, and an ended job does not run again.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from eco2.errors import BrokerUnavailable, DecodeError, JobForgotten, PermanentError
from eco2.event import Paused, Resumed, queued
from eco2.job import decode_order, encode_order
from eco2.journal.journal import Journal
from eco2.journal.orders import find_order
from eco2.journal.state import JobState, cancelled
from eco2.operator.dead_jobs import DeadJob
from eco2.operator.replay_plan import NotReplayable, ReplayPlan, why_not
from eco2.ports import OrderStore, WorkQueue, retry_queue
from eco2.retry import PUBLISH

CONFIRM_TIMEOUT = 20.0
"""Seconds in which the broker must confirm each step."""


class ReplayBroker(WorkQueue, OrderStore, Protocol):
    """The broker as a replay needs it."""

    @property
    def blocked(self) -> str | None: ...


async def replay(plan: ReplayPlan, broker: ReplayBroker, journal: Journal) -> str:
    """Returns the id of the new job, once its order is published and the letters are dropped.

    Raises `BrokerUnavailable` and the like after `CONFIRM_TIMEOUT`, and `DeliveryLost` if a letter could not
    be dropped: call it again with a fresh plan.
    """
    if why := broker.blocked:
        raise BrokerUnavailable(f"the broker accepts no messages ({why}); replay again later")
    job, order = plan.job, encode_order(plan.job)
    if not plan.announced:
        await PUBLISH.retry(lambda: broker.append_order(order, job.id), CONFIRM_TIMEOUT)
        async with with_timeout("the journal confirmed nothing"):
            await journal.announce(queued(plan.job, plan.dead.id, dict(plan.outputs)))
    if not plan.ended:
        queue = retry_queue(job.pipeline, job.priority)
        await PUBLISH.retry(lambda: broker.publish(queue, order, job.id), CONFIRM_TIMEOUT)
    for letter in plan.dead.letters:
        await letter.drop()
    return job.id


async def stored_job(
    job: str, state: JobState | None, store: OrderStore, hours: int
) -> DeadJob | NotReplayable:
    """Finds the stored order of a failed job without a dead letter. `hours`: how long the store keeps it."""
    if state is None:
        return NotReplayable(job, "the journal does not have it (any more); the client may send it again")
    if reason := why_not(state):
        return NotReplayable(job, reason)
    if state.dead:
        return NotReplayable(job, "its dead letter was dropped, or is not among the oldest (--limit)")
    if (order := await find_order(store, job)) is None:
        return NotReplayable(
            job,
            f"its order is no longer stored (orders are kept for {hours} h): the client may send it again",
        )
    try:
        return DeadJob(job, (), decode_order(order))
    except DecodeError as error:
        return DeadJob(job, (), None, str(error))


async def wait_for_capacity(journal: Journal, jobs: Iterable[str], limit: int) -> None:
    """Returns once fewer than `limit` of the jobs are unended.

    Jobs replayed in one command must not wait for each other until their deadlines.
    """
    while True:
        states = [state for job in jobs if (state := journal.view.get(job)) is not None and not state.ended]
        if len(states) < limit:
            return
        with suppress(JobForgotten):
            await journal.view.change(states[0].job, states[0])


async def reissue(state: JobState, broker: ReplayBroker) -> None:
    """Publishes the job's order to the express queue again.

    Raises `PermanentError` for a job that has ended, or whose order is no longer stored.
    """
    if state.ended:
        advice = (
            f"`eco2 jobs replay {state.job}` continues it as a new job"
            if state.status == "failed"
            else "the client may send it again"
        )
        raise PermanentError(f"job {state.job} has ended as {state.status}; {advice}", "ENDED")
    if state.is_truncated:
        raise PermanentError(
            f"the journal no longer holds the input of job {state.job}; the job ends at its deadline"
        )
    order = await find_order(broker, state.job)
    if order is None:
        raise PermanentError(
            f"the order store does not have the order of job {state.job} (it keeps orders for an hour); "
            "the job ends at its deadline, and the client may send it again"
        )
    queue = retry_queue(state.pipeline, state.priority)
    await PUBLISH.retry(lambda: broker.publish(queue, order, state.job), CONFIRM_TIMEOUT)


async def cancel(state: JobState, journal: Journal, now: float) -> JobState:
    """Ends the job as cancelled; returns it with the end that stands. Raises `PermanentError` if it had ended
    in another way."""
    async with with_timeout("the journal confirmed nothing"):
        if not state.ended:
            journal.put(cancelled(state, now))
        while not state.ended:
            state = await journal.view.change(state.job, state)
    if state.status != "cancelled":
        raise PermanentError(f"job {state.job} has ended as {state.status} already", "ENDED")
    return state


async def set_intake(journal: Journal, event: Paused | Resumed) -> Paused | None:
    """Pauses or resumes the intake of all workers; returns the pause that was in force before, if any.

    Returns once the own tail shows the event.
    """
    before = journal.view.paused
    async with with_timeout("the journal confirmed nothing"):
        await journal.put(event)
        await journal.barrier()
    return before


@asynccontextmanager
async def with_timeout(failure: str) -> AsyncIterator[None]:
    """Raises `BrokerUnavailable` if the block takes longer than `CONFIRM_TIMEOUT`."""
    try:
        async with asyncio.timeout(CONFIRM_TIMEOUT):
            yield
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"{failure} within {CONFIRM_TIMEOUT:g} s; run the command again: it continues from there"
        ) from error
