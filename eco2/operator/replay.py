"""A replay: a dead job goes on as a new one, behind what the old one completed. The old one's end stands.

Order of writes: the order into the store → `queued` confirmed and seen in the own tail → the order into the
queue of what goes first → the letters dropped. A crash between any two loses nothing:

* after the order is in the store: an order that no job asks for; the letters are all there;
* after `queued`: a job that the sweep orders within two minutes; the letters are there, and the next replay
  goes on with that same job;
* after the order is in its queue: the job runs; the letters are there, and the next replay drops them;
* after some of the letters are dropped: the same, for those that are left.

The next replay knows of that job for as long as views reach back (ECO2_VIEW_MINUTES); later it makes another.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Protocol

from eco2.errors import BrokerUnavailable, JobForgotten
from eco2.event import queued
from eco2.job import encode_order
from eco2.journal.journal import Journal
from eco2.journal.orders import Orders
from eco2.operator.plan import Plan
from eco2.ports import OrderStore, WorkQueue, retry_queue
from eco2.retry import PUBLISH

PATIENCE = 20.0
"""Seconds in which each step must be confirmed."""


class Broker(WorkQueue, OrderStore, Protocol):
    """What a replay needs of the broker, besides the journal."""

    @property
    def blocked(self) -> str | None: ...


async def replay(plan: Plan, broker: Broker, journal: Journal) -> str:
    """The id of the new job, once its order is out and the letters are gone.

    Raises `BrokerUnavailable` and the like after `PATIENCE`, and `DeliveryLost` where a letter could not be
    dropped: call it again with a plan that is as new.
    """
    if why := broker.blocked:
        raise BrokerUnavailable(f"the broker takes nothing at present ({why}); replay again later")
    job, order = plan.job, encode_order(plan.job)
    if not plan.announced:
        await PUBLISH.retry(lambda: Orders(broker).keep(job.id, order), PATIENCE)
        async with in_time("the journal confirmed nothing"):
            await journal.announce(queued(plan.job, plan.dead.id, dict(plan.outputs)))
    if not plan.over:
        await PUBLISH.retry(lambda: broker.publish(retry_queue(job.pipeline), order, job.id), PATIENCE)
    for letter in plan.dead.letters:
        await letter.drop()
    return job.id


async def room(journal: Journal, begun: Iterable[str], most: int) -> None:
    """Returns once fewer than `most` of the jobs `begun` are unfinished: what is replayed in one go must not
    wait behind itself until its deadline."""
    while True:
        states = [state for job in begun if (state := journal.view.get(job)) is not None and not state.ended]
        if len(states) < most:
            return
        with suppress(JobForgotten):
            await journal.view.change(states[0].job, states[0])


@asynccontextmanager
async def in_time(what: str) -> AsyncIterator[None]:
    """Raises `BrokerUnavailable` when the block lasts longer than the patience."""
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError as error:
        raise BrokerUnavailable(
            f"{what} within {PATIENCE:g} s; do it again: it goes on from there"
        ) from error
