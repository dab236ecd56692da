"""The worker's side: `ports.Quota` over request and reply.

Guarantees: a call is granted once however often replies are lost; a grant is used only while it is fresh, by
this process' own clock; what is not used goes back, also when the caller is cancelled while it waits.
"""

import asyncio
import math
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count

from eco2.errors import CallTooLarge, DecodeError, GrantExpired, PermanentError, RetryableError, StaleRun
from eco2.log import get_logger
from eco2.pacer import TRANSIT_GUARD, Limits
from eco2.ports import Clock, GrantRequest, Rpc
from eco2.quota.message import (
    RUN_VOID,
    Ask,
    Granted,
    Later,
    PushedBack,
    Refused,
    Reply,
    Report,
    Settled,
    decode_reply,
    encode,
)
from eco2.quota.named import FORGET
from eco2.quota.term import HOLD
from eco2.quota.window import Line
from eco2.retry import Backoff

LIFE = TRANSIT_GUARD / 2
"""Seconds from a grant to the last line before the send; the other half is for the way to the provider."""
PATIENCE = HOLD + 3.0
"""Seconds for a reply: a leader that is frozen is asked again, or its successor."""
AGAIN = Backoff(0.2, 2.0)
"""Where no reply came (the first pause only), and where grants come too late, one after another."""
FAREWELL = 1.0
"""Seconds for the last report when the process stops."""
MOST_REPORTED = 200
"""Calls in one report."""

Near = Callable[[Ask], Awaitable[Granted | None]]
"""The leader, if it is in this process and can grant at once (`Leader.near`)."""

Word = str | Settled | PushedBack
"""What became of a call; the bare id of one that was not sent."""

log = get_logger(__name__)


async def far(ask: Ask) -> None:
    """For a process without a leader."""


@dataclass(slots=True)
class CallGrant:
    """Implements `ports.Grant` for one call. `_tell` reports the end of it."""

    expires_at: float
    _name: str
    _clock: Clock
    _tell: Callable[[Word], None]
    _confirmed: bool = False
    _closed: bool = False

    def confirm(self) -> None:
        if self._clock() >= self.expires_at:
            raise GrantExpired("the grant is too old to be used: release it and acquire another")
        self._confirmed = True

    def settle(self, tokens: float) -> None:
        self._close(Settled(self._name, tokens))

    def throttled(self, retry_after: float | None) -> None:
        self._close(PushedBack(self._name, retry_after))

    def release(self) -> None:
        if not self._confirmed:
            self._close(self._name)

    def _close(self, word: Word) -> None:
        if not self._closed:
            self._closed = True
            self._tell(word)


class Asker:
    """`service`: which budget. `worker`: this process' name. `limits`: what it was given, and tells."""

    def __init__(
        self,
        rpc: Rpc,
        service: str,
        worker: str,
        limits: Limits,
        near: Near = far,
        clock: Clock = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._service = service
        self._worker = worker
        self._near = near
        self._own = limits
        self._named = Limits()
        self._named_at = -math.inf
        self._clock = clock
        self._line = Line()
        self._words: list[Word] = []
        self._spoken = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Reports what became of calls until `stop` is set, one report at a time, and once more then."""
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(self._report_for_ever())
            await stop.wait()
            reporting.cancel()
        if self._words:
            await self._report(FAREWELL)

    def update_limits(self, limits: Limits) -> None:
        """Applies limits that the provider's answers name; they count for `FORGET` seconds."""
        self._named, self._named_at = limits, self._clock()

    def _limits(self) -> Limits:
        """The lower of the own limits and the named ones."""
        fresh = self._clock() < self._named_at + FORGET
        return self._own.lowest(self._named) if fresh else self._own

    async def acquire(self, request: GrantRequest) -> CallGrant:
        """Waits for a fresh grant: see `ports.Quota`."""
        for late in count():
            grant = await self._once(request)
            if self._clock() < grant.expires_at:
                return grant
            grant.release()
            if late:
                # Our own asks may be too many for the way: all of them again at once would be late for ever.
                await AGAIN.sleep(late)
        raise AssertionError("counting has no end")

    async def _once(self, request: GrantRequest) -> CallGrant:
        """Asks until there is a grant or a refusal, under one id."""
        name = uuid.uuid4().hex
        try:
            while True:
                async with self._line.turn((not request.started, request.offset)):
                    asked = self._clock()
                    reply = await self._ask(name, request)
                now, window = self._clock(), self._line.window
                match reply:
                    case Granted():
                        transit = now - asked - reply.held  # without its wait at the leader
                        self._line.window = window.arrived(asked, now, transit, LIFE)
                        return CallGrant(asked + reply.held + LIFE, name, self._clock, self._tell)
                    case Refused():
                        raise refusal(reply)
                    case Later():
                        await asyncio.sleep(reply.seconds)
                    case _:
                        self._line.window = window.lost(asked, now)
                        await AGAIN.sleep(0)
        except asyncio.CancelledError:
            self._tell(name)
            raise

    async def _ask(self, name: str, request: GrantRequest) -> Reply | None:
        """The reply, or None if there was none."""
        ask = Ask(
            id=name,
            worker=self._worker,
            limits=self._limits(),
            own=self._own,
            job=request.job,
            run=request.run,
            offset=request.offset,
            started=request.started,
            call=request.kind,
            tokens=request.tokens,
        )
        if (granted := await self._near(ask)) is not None:
            return granted
        try:
            return decode_reply(await self._rpc.request(self._service, encode(ask), PATIENCE, express=True))
        except (RetryableError, DecodeError) as error:
            log.info("no word from the quota leader; asking again", why=str(error))
            return None

    def _tell(self, word: Word) -> None:
        self._words.append(word)
        self._spoken.set()

    async def _report_for_ever(self) -> None:
        while True:
            await self._spoken.wait()
            if not await self._report(PATIENCE):
                await AGAIN.sleep(0)

    async def _report(self, patience: float) -> bool:
        """Sends what there is to say; it stays to be said if nobody answered."""
        words = self._words[:MOST_REPORTED]
        report = Report(
            worker=self._worker,
            limits=self._limits(),
            own=self._own,
            unsent=tuple(word for word in words if isinstance(word, str)),
            settled=tuple(word for word in words if isinstance(word, Settled)),
            pushed_back=tuple(word for word in words if isinstance(word, PushedBack)),
        )
        try:
            await self._rpc.request(self._service, encode(report), patience)
        except RetryableError as error:
            log.info("quota report not read", why=str(error))
            return False
        del self._words[: len(words)]
        if not self._words:
            self._spoken.clear()
        return True


def refusal(reply: Refused) -> StaleRun | PermanentError:
    """The error that a refusal is for the caller."""
    match reply.code:
        case code if code == RUN_VOID:
            return StaleRun(reply.message)
        case CallTooLarge.code:
            return CallTooLarge(reply.message)
        case code:
            return PermanentError(f"the quota leader refused the call: {reply.message}", code)
