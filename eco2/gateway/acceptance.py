"""How a request becomes a job: `queued` in the journal, seen in the own tail, then the work order.

What it guarantees: an id is answered only when its order is known to be at the broker; one key has one job,
whichever replicas were asked at once; nothing is published while the broker cannot take it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TypeVar

from pydantic import BaseModel

from eco2.errors import BrokerUnavailable, InvalidInput, SpendLimit, TooLarge
from eco2.event import Superseded, queued
from eco2.gateway.problem import RequestTooLarge
from eco2.job import Job, encode_order, new_id
from eco2.journal.journal import Journal
from eco2.journal.orders import Orders
from eco2.journal.spending import day_of, until_midnight
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.ports import Broker, Clock, jobs_queue
from eco2.retry import Backoff

Confirmed = TypeVar("Confirmed")

PUBLISH = Backoff(0.02, 0.5)
"""Short pauses: a client waits for the answer."""
LOOK = 0.1
"""Seconds between two looks at the broker while a request waits for it."""
REMEMBERED = 10_000
"""Ids whose order this process published. Forgetting one costs a second order, which is harmless."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """What a client asks for. `parse` makes the pipeline's input; it may be slow and raise `InvalidInput`.

    `owner`: who asks, "" where nobody is told.
    """

    pipeline: str
    digest: str
    parse: Callable[[], Awaitable[BaseModel]]
    key: str | None = None
    model: str | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Accepted:
    """`new`: False if the key named a job that was accepted before; `status`: how far that job is."""

    job_id: str
    new: bool
    status: str = "queued"


class Acceptance:
    """`timeout`: seconds for the broker per request. `life`: seconds from acceptance to a job's deadline.

    `daily`: USD that may be paid per UTC day before no further job is taken; None: any.
    """

    def __init__(
        self,
        broker: Broker,
        journal: Journal,
        clock: Clock,
        timeout: float,
        life: float,
        daily: Decimal | None = None,
    ) -> None:
        self._broker = broker
        self._journal = journal
        self._orders = Orders(broker)
        self._clock = clock
        self._timeout = timeout
        self._life = life
        self._daily = daily
        self._unpriced_logged = False
        self._ordered: dict[str, None] = {}

    async def accept(self, submission: Submission) -> Accepted:
        """The job of the submission, once its order is out.

        Raises `InvalidInput` (also where the key belongs to another request), `BrokerUnavailable`,
        `SpendLimit` (not for a job that was accepted before).
        """
        if submission.key is not None:
            known = self._journal.view.by_key(submission.owner, submission.key, self._clock())
            if known is not None:
                return await self._again(known, submission)
        self._check_broker()
        self._check_spending()
        value = await submission.parse()
        self._check_broker()
        job, order = _ordered(lambda: self._job(submission, value))
        try:
            winner = await self._in_time(self._publish(job, order))
        except BrokerUnavailable:
            self._withdraw(job)
            raise
        return Accepted(job.id, new=True) if winner is None else await self._again(winner, submission)

    async def _publish(self, job: Job, order: bytes) -> JobState | None:
        """None when the job is out, or the job that had its key first."""
        try:
            await PUBLISH.retry(lambda: self._orders.keep(job.id, order))
        except TooLarge as error:
            log.error("a request was refused for its size", why=str(error))  # noqa: TRY400 - nothing broke
            raise RequestTooLarge(
                "the request is larger than this installation can queue; send a smaller one"
            ) from error
        state = await self._journal.announce(queued(job))
        if state.superseded_by is None:
            await self._order(job, order)
            return None
        # Every reader sees the loss by itself; the event only spares look-ups the search, so nobody waits.
        self._journal.put(Superseded(ts=self._clock(), job=job.id, by=state.superseded_by))
        winner = await self._journal.find(state.superseded_by)
        if winner is None:
            raise BrokerUnavailable("the job that holds this key cannot be found now; send the request again")
        return winner

    async def _again(self, known: JobState, submission: Submission) -> Accepted:
        if known.digest != submission.digest:
            raise InvalidInput(
                "this Idempotency-Key came with another request before; use a new key", "IDEMPOTENCY_MISMATCH"
            )
        if known.status == "queued" and known.job not in self._ordered:
            self._check_broker()
            value = await submission.parse()
            await self._in_time(self._order(*_ordered(lambda: _same_job(known, value))))
        return Accepted(known.job, new=False, status=known.status)

    def _check_broker(self) -> None:
        """What a blocked broker holds back would arrive as a ghost, after the client was refused."""
        if why := self._broker.blocked:
            raise BrokerUnavailable(f"the broker takes nothing at present ({why}); try again soon")
        if not self._broker.ready:
            raise BrokerUnavailable("this gateway is not connected to its broker; try again soon")
        if not self._journal.current:
            raise BrokerUnavailable("this gateway has not read the journal to its end; try again soon")

    def _check_spending(self) -> None:
        if self._daily is None:
            return
        spending, now = self._journal.view.spending, self._clock()
        if not spending.complete:
            raise BrokerUnavailable("this gateway is still reading what was paid today; try again soon")
        if spending.unpriced and not self._unpriced_logged:
            self._unpriced_logged = True
            log.warning("calls without a known price count as nothing against ECO2_DAILY_USD")
        total = spending.total(day_of(now))
        if total >= self._daily:
            raise SpendLimit(
                "no further jobs are taken today; send the request again after midnight UTC",
                until_midnight(now),
            )

    async def _in_time(self, step: Awaitable[Confirmed]) -> Confirmed:
        """Waits for `step`, but no longer once the broker is blocked: it says so to whoever publishes."""
        try:
            async with asyncio.timeout(self._timeout) as patience:
                with self._unless_blocked(patience):
                    return await step
        except TimeoutError as error:
            why = self._broker.blocked or f"no confirm within {self._timeout:g} s"
            raise BrokerUnavailable(f"the broker: {why}; send it again with the same key") from error

    @contextmanager
    def _unless_blocked(self, patience: asyncio.Timeout) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        looking: list[asyncio.TimerHandle] = []

        def look() -> None:
            if self._broker.blocked is not None:
                patience.reschedule(loop.time())
            looking[:] = [loop.call_later(LOOK, look)]

        looking.append(loop.call_later(LOOK, look))
        try:
            yield
        finally:
            looking[0].cancel()

    def _withdraw(self, job: Job) -> None:
        """The client is told 503, so what may have got through must not run. Not with a key: then the client
        may be back already, at another gateway, and was told this very id."""
        if job.key is None:
            self._journal.put(Superseded(ts=self._clock(), job=job.id, by=""))

    async def _order(self, job: Job, order: bytes) -> None:
        await PUBLISH.retry(lambda: self._broker.publish(jobs_queue(job.pipeline), order, job.id))
        self._ordered[job.id] = None
        if len(self._ordered) > REMEMBERED:
            del self._ordered[next(iter(self._ordered))]

    def _job(self, submission: Submission, value: BaseModel) -> Job:
        now = self._clock()
        return Job(
            id=new_id(now),
            pipeline=submission.pipeline,
            input=value.model_dump(mode="json"),
            accepted=now,
            deadline=now + self._life,
            digest=submission.digest,
            owner=submission.owner,
            key=submission.key,
            model=submission.model,
        )


def _ordered(make: Callable[[], Job]) -> tuple[Job, bytes]:
    """A job of what a client sent, and its order."""
    try:
        job = make()
        return job, encode_order(job)
    except (ValueError, OverflowError, RecursionError) as error:  # say, lists in lists without end
        raise InvalidInput("the request has a value that cannot be passed on: send a simpler one") from error


def _same_job(state: JobState, value: BaseModel) -> Job:
    return Job(
        id=state.job,
        pipeline=state.pipeline,
        input=value.model_dump(mode="json"),
        accepted=state.accepted,
        deadline=state.deadline,
        digest=state.digest,
        owner=state.owner,
        key=state.key,
        model=state.model,
    )
