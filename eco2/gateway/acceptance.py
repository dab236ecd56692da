"""Accepts jobs: `queued` in the journal, seen in the own tail, then the work order.

Guarantees: an id is answered only when its order is known to be at the broker; one key has one job, whichever
replicas were asked at once; nothing is published while the broker cannot take it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from eco2.errors import BrokerUnavailable, InvalidInput, SpendLimit, TooLarge
from eco2.event import Superseded, queued
from eco2.gateway.config import GatewayConfig
from eco2.gateway.problem import RequestTooLarge
from eco2.job import PRIORITIES, Job, Priority, encode_order, new_id
from eco2.journal.journal import Journal
from eco2.journal.spending import day_of, until_midnight
from eco2.journal.state import JobState
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline, Form
from eco2.ports import Broker, Clock, jobs_queue
from eco2.retry import Backoff

POLL_INTERVAL = 0.1
"""Seconds between two checks for a blocked broker while a request waits for it."""
MAX_REMEMBERED = 10_000
"""Ids whose order this process published. Forgetting one costs a second order, which is harmless."""
PUBLISH = Backoff(0.02, 0.5)
"""Short pauses: a client waits for the answer."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms on which a client submits a job, see `Job`. `owner`: "" without authentication."""

    max_wait: float
    timeout: float
    max_usd: float | None = None
    priority: Priority = "interactive"
    key: str | None = None
    model: str | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """A client's request. `form`: the pipeline's part of its content; `digest` identifies all of it."""

    form: Form
    digest: str
    terms: Terms


@dataclass(frozen=True, slots=True)
class Accepted:
    """`new`: False if the key named a job that was accepted before; `status`: how far that job is."""

    job_id: str
    new: bool
    status: str = "queued"


@dataclass(slots=True)
class Acceptance:
    """Accepts the jobs of one pipeline."""

    pipeline: AnyPipeline
    broker: Broker
    journal: Journal
    config: GatewayConfig
    clock: Clock
    _queues: dict[Priority, str] = field(init=False)
    _unpriced_logged: bool = field(default=False, init=False)
    _ordered: dict[str, None] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._queues = {priority: jobs_queue(self.pipeline.name, priority) for priority in PRIORITIES}

    async def accept(self, submission: Submission) -> Accepted:
        """Returns the submission's job once its order is at the broker.

        Raises `InvalidInput` (also if the key belongs to another request), `BrokerUnavailable`,
        `SpendLimit` (not for a job that was accepted before).
        """
        terms = submission.terms
        if terms.key is not None:
            holder = self.journal.view.by_key(terms.owner, terms.key, self.clock())
            if holder is not None:
                async with self._within_timeout():
                    known = await self._find_holder(holder)
                return await self._accept_known(known, submission)
        self._check_open(new=True)
        job, order = await self._make_order(submission)
        self._check_open(new=True)
        try:
            async with self._within_timeout():
                winner = await self._announce(job, order)
                if winner is None:
                    await self._publish(job, order)
        except BrokerUnavailable:
            # The client gets a 503, so the job must not run if its messages got through after all. With a key
            # it may: its client may have returned already, to another gateway, and have received this id.
            if job.key is None:
                self.journal.put(Superseded(ts=self.clock(), job=job.id, by=""))
            raise
        return Accepted(job.id, new=True) if winner is None else await self._accept_known(winner, submission)

    async def _announce(self, job: Job, order: bytes) -> JobState | None:
        """Stores the order and appends `queued`. Returns the job that has the key already, if any."""
        try:
            await PUBLISH.retry(partial(self.broker.append_order, order, job.id))
        except TooLarge as error:
            log.error("a request was refused for its size", why=str(error))  # noqa: TRY400 - nothing broke
            raise RequestTooLarge(
                "the request is larger than this installation can queue; send a smaller one"
            ) from error
        state = await self.journal.announce(queued(job))
        if state.superseded_by is None:
            return None
        # Every reader sees by itself that the key was lost; this event only saves look-ups the search, so
        # nothing waits for its confirm.
        self.journal.put(Superseded(ts=self.clock(), job=job.id, by=state.superseded_by))
        return await self._find_holder(state.superseded_by)

    async def _find_holder(self, job_id: str) -> JobState:
        if (state := await self.journal.find(job_id)) is None:
            raise BrokerUnavailable("the job that holds this key cannot be found now; send the request again")
        return state

    async def _accept_known(self, known: JobState, submission: Submission) -> Accepted:
        """Answers with a job that was accepted before. Publishes its order again if it may be missing."""
        if known.digest != submission.digest:
            raise InvalidInput(
                "this Idempotency-Key was used for another request; send a new key", "IDEMPOTENCY_MISMATCH"
            )
        if known.status == "queued" and known.job not in self._ordered:
            self._check_open(new=False)
            job, order = await self._make_order(submission, known)
            async with self._within_timeout():
                await self._publish(job, order)
        return Accepted(known.job, new=False, status=known.status)

    async def _publish(self, job: Job, order: bytes) -> None:
        await PUBLISH.retry(partial(self.broker.publish, self._queues[job.priority], order, job.id))
        self._ordered[job.id] = None
        if len(self._ordered) > MAX_REMEMBERED:
            del self._ordered[next(iter(self._ordered))]

    async def _make_order(self, submission: Submission, known: JobState | None = None) -> tuple[Job, bytes]:
        """Parses the request, which may be slow. Returns its job, a new or the `known` one, and the order.

        Raises `InvalidInput`, and whatever the pipeline raises for an input that it does not take.
        """
        pipeline, form, terms = self.pipeline, submission.form, submission.terms
        value = await pipeline.parse(form) if pipeline.parse else pipeline.input.model_validate(form.fields)
        models = {terms.model or self.config.default_model} - {None} or set(self.config.models)
        if pipeline.check_local is not None and models == {self.config.local_model}:
            pipeline.check_local(value)  # no other model can take the job
        accepted = self.clock() if known is None else known.accepted
        limits: Terms | JobState = known or terms
        if limits.max_usd is not None and models.isdisjoint(self.config.priced):
            raise InvalidInput(
                "the cost of a job is limited (Job-Max-USD, or by the pipeline), and the price of its model "
                f"is not known; name one of: {', '.join(self.config.priced) or 'none here'}",
                "PRICE_UNKNOWN",
            )
        try:
            job = Job(
                id=new_id(accepted) if known is None else known.job,
                pipeline=pipeline.name,
                input=value.model_dump(mode="json"),
                accepted=accepted,
                max_wait=limits.max_wait,
                timeout=limits.timeout,
                max_usd=limits.max_usd,
                digest=submission.digest,
                owner=terms.owner,
                key=terms.key,
                model=terms.model,
                priority=limits.priority,
            )
            return job, encode_order(job)
        except (ValueError, OverflowError, RecursionError) as error:  # for example, endlessly nested lists
            raise InvalidInput(
                "the request has a value that cannot be passed on: send a simpler one"
            ) from error

    def _check_open(self, *, new: bool) -> None:
        """Raises `BrokerUnavailable` while nothing can be published; for a `new` job also `SpendLimit`."""
        # A publish that a blocked broker holds back would be delivered after the client was refused.
        if why := self.broker.blocked:
            raise BrokerUnavailable(f"the broker accepts no messages at present ({why}); try again soon")
        if not self.broker.ready:
            raise BrokerUnavailable("this gateway is not connected to its broker; try again soon")
        if not self.journal.current:
            raise BrokerUnavailable("this gateway has not read the journal to its end; try again soon")
        if not new or (limit := self.config.daily_usd) is None:
            return
        spending, now = self.journal.view.spending, self.clock()
        if spending.unpriced and not self._unpriced_logged:
            self._unpriced_logged = True
            log.warning("calls without a known price count as nothing against ECO2_DAILY_USD")
        if spending.total(day_of(now)) >= limit:
            raise SpendLimit(
                "no further jobs are taken today; send the request again after midnight UTC",
                until_midnight(now),
            )

    @asynccontextmanager
    async def _within_timeout(self) -> AsyncGenerator[None, None]:
        """Bounds the time of the block, and ends it early if the broker reports that it is blocked."""
        loop, timeout = asyncio.get_running_loop(), asyncio.timeout(self.config.publish_timeout)
        timer: asyncio.TimerHandle

        def poll() -> None:
            nonlocal timer
            if self.broker.blocked is None:
                timer = loop.call_later(POLL_INTERVAL, poll)
            elif not timeout.expired():
                timeout.reschedule(loop.time())

        timer = loop.call_later(POLL_INTERVAL, poll)
        try:
            async with timeout:
                yield
        except TimeoutError as error:
            why = self.broker.blocked or f"no confirm within {self.config.publish_timeout:g} s"
            raise BrokerUnavailable(f"the broker: {why}; send it again with the same key") from error
        finally:
            timer.cancel()
