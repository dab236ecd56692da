"""The process that grants: of all that run a `Leader` the broker elects one. Only I/O; `Term` decides.

A leader that begins knows what its predecessors have granted, since they say so to all candidates before a
grant goes out (`Shadow`); of what it has not heard it assumes the most. Until it is in office it tells
everyone to ask again at once.
"""

import asyncio
import math
import time
from collections.abc import Callable

from eco2.errors import DecodeError, RetryableError
from eco2.log import get_logger
from eco2.pacer import Counting, Limits, Pacer
from eco2.ports import Clock, PubSub, Rpc, Subscription
from eco2.quota.message import (
    MALFORMED,
    Ask,
    Entry,
    Granted,
    Later,
    Noted,
    Office,
    Refused,
    Reply,
    Report,
    Settled,
    Tell,
    Told,
    decode_note,
    decode_reply,
    decode_request,
    encode,
    encode_note,
)
from eco2.quota.office import Seat
from eco2.quota.shadow import Shadow
from eco2.quota.sizes import Sizes
from eco2.quota.term import Current, Gone, Status, Term, present

ELECTION = 0.1
"""Seconds after which one that asked between two terms asks again."""
QUIET = 0.5
"""Seconds in which a new leader grants nothing: what the last one has said of its grants may still come."""
LEASE = QUIET
"""Seconds after a request in which copies that come the shorter way are answered, too. Only requests show
that the broker has elected nobody else; who is elected behind the last of them is quiet for as long."""

FOLLOW = 0.25
"""Seconds between two looks: was something missed, or may it have been, and does the lease run out?"""
BUSY = 10.0
"""Seconds after an ask that came a shorter way in which the lease is kept up."""
ECHO = 0.05
"""Seconds for the broker to pass a note on, to this process, too."""
PATIENCE = 2.0
"""Seconds for the leader to tell what was spent, and for the journal to confirm."""
TICK = 0.001
"""Seconds: timers are no finer, and one that fires too early must not be set again for no time at all."""

log = get_logger(__name__)


class Leader:
    """`service`: which budget. `current`: see `eco2.quota.term.Current`. `sizes`: of its large calls.

    `clock`: seconds of this process alone, never set back. `gone`: see `Term`.
    """

    def __init__(
        self,
        rpc: Rpc,
        live: PubSub,
        service: str,
        limits: Limits,
        current: Current,
        sizes: Sizes,
        counting: Counting = "request",
        clock: Clock = time.monotonic,
        gone: Gone = present,
    ) -> None:
        self._gone = gone
        self._rpc = rpc
        self._live = live
        self._topic = f"{service}.granted"
        self._service = service
        self._limits = limits
        self._current = current
        self._sizes = sizes
        self._clock = clock
        self._hearing: Callable[[], bool] = lambda: False
        self._shadow = Shadow(lambda now: Pacer(limits, now, counting, sizes.largest()), clock())
        self._corrections: tuple[tuple[Settled, ...], tuple[str, ...]] = ((), ())
        self._requested = self._hurried = -math.inf
        self._echoes: dict[tuple[str, str], asyncio.Future[None]] = {}
        """Grants to this process that wait for their note, by epoch and call."""
        self._seat = Seat(rpc, service, sizes.catch_up, self._begin, self._end)
        self._term: Term | None = None
        self._told = limits
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def leading(self) -> bool:
        return self._term is not None

    def status(self) -> Status | None:
        """How the budget stands; None where another process leads."""
        return None if self._term is None else self._term.status(self._clock())

    async def run(self, stop: asyncio.Event) -> None:
        """Stands for election until `stop` is set; then it leaves what waits to its successor."""
        hearing = self._live.subscribe(self._topic, self._hear)
        self._hearing = lambda: hearing.attached
        serving = self._rpc.serve(self._service, self._handle, self._express)
        async with asyncio.TaskGroup() as group:
            seat = group.create_task(self._seat.run())
            following = group.create_task(self._follow(hearing))
            await stop.wait()
            following.cancel()
            seat.cancel()
            await asyncio.wait((seat,))
            await serving.cancel()
        await hearing.cancel()

    def _hear(self, _: str, body: bytes) -> None:
        note = decode_note(body)
        if note is None:
            return
        for entry in note.granted:
            echo = self._echoes.get((note.epoch, entry.id))
            if echo is not None and not echo.done():
                echo.set_result(None)
        self._shadow.hear(self._clock(), note)

    async def _follow(self, hearing: Subscription) -> None:
        """Asks the leader for what was spent whenever this process does not know it.

        A leader to which calls come the shorter way keeps up its lease here, where no requests do so.
        """
        while True:
            now = self._clock()
            if self._term is not None and now < self._hurried + BUSY and now >= self._requested + LEASE / 4:
                try:
                    await self._rpc.request(self._service, encode(Office(token="")), LEASE)
                except RetryableError as error:
                    log.info("no sign that this process still leads", why=str(error))
            if self._term is None and not hearing.attached and self._shadow.complete:
                self._shadow.lost(self._clock())
            if hearing.attached and not self._shadow.complete:
                try:
                    reply = decode_reply(await self._rpc.request(self._service, encode(Tell()), PATIENCE))
                except (RetryableError, DecodeError) as error:
                    log.info("the quota leader did not tell what was spent; asking again", why=str(error))
                else:
                    if isinstance(reply, Told):
                        self._shadow.told(self._clock(), reply)
            await asyncio.sleep(FOLLOW)

    async def _handle(self, body: bytes) -> bytes:
        self._requested = self._clock()
        try:
            request = decode_request(body)
        except DecodeError as error:
            return encode(Refused(code=MALFORMED, message=f"{error}: give all processes one version"))
        match request:
            case Office():
                await self._seat.hold(request)
                return encode(Noted())
            case Report():
                return encode(self._report(request))
            case Tell():
                return encode(Noted() if self._term is None else self._shadow.tell(self._clock()))
            case Ask():
                return encode(await self._ask(request))

    async def near(self, ask: Ask) -> Granted | None:
        """The grant for an ask of this very process, if there is one at once.

        Nothing of it passes the broker but the note, and it is good only once that came back: what a leader
        grants that the broker has cut off, its successor would never hear of.
        """
        granted = self._at_once(ask)
        if granted is None:
            return None
        name = (granted.epoch, ask.id)
        echo = self._echoes[name] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((echo,), timeout=ECHO)
        finally:
            del self._echoes[name]
        return granted if echo.done() else None

    def _express(self, body: bytes) -> bytes | None:
        """A copy of an ask that came the shorter way: granted if that is possible at once."""
        try:
            ask = decode_request(body)
        except DecodeError:
            return None
        granted = self._at_once(ask) if isinstance(ask, Ask) else None
        return None if granted is None else encode(granted)

    def _at_once(self, ask: Ask) -> Granted | None:
        """None where the ask itself is to be answered, that comes by the broker's queue."""
        now = self._hurried = self._clock()
        if self._term is None or now >= self._requested + LEASE or self._is_large(ask.tokens):
            return None
        granted = self._term.express(now, ask)
        self._say(self._term.news())
        return granted

    def _report(self, report: Report) -> Reply:
        if self._term is None:
            self._seat.want()
        else:
            self._term.report(self._clock(), report)
            settled, unsent = self._corrections
            self._corrections = ((*settled, *report.settled), (*unsent, *report.unsent))
            for name in report.unsent:
                self._answer(name, Noted())  # nobody waits for it, but the broker holds the request
            self._turn(self._term)
        return Noted()

    async def _ask(self, ask: Ask) -> Reply:
        if self._term is not None and not await self._said(ask.tokens):
            return Later(seconds=ELECTION)
        if self._term is None:
            self._seat.want()
            return Later(seconds=ELECTION)
        term = self._term
        answer = term.ask(self._clock(), ask)
        if answer is not None:
            return answer
        if (older := self._waiting.pop(ask.id, None)) is not None and not older.done():
            older.set_result(Later(seconds=0.0))  # its asker has given this reply up
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[ask.id] = future
        self._turn(term)
        return await future

    async def _said(self, tokens: float) -> bool:
        """True once every later leader will know of so large a call.

        A leader that does not know of it would not expect it, and a minute could be overrun.
        """
        if not self._is_large(tokens):
            return True
        try:
            async with asyncio.timeout(PATIENCE):
                await self._sizes.declare(tokens)
        except TimeoutError:
            log.info("the journal does not confirm; a large call waits", tokens=tokens)
            return False
        return True

    def _is_large(self, tokens: float) -> bool:
        """True for a call larger than a leader expects that knows nothing, if a minute holds it at all."""
        return self._limits.tokens is not None and self._limits.burst_tokens < tokens <= self._limits.tokens

    def _begin(self, epoch: str) -> None:
        log.info("quota term begins", epoch=epoch)
        now = self._clock()
        if not self._hearing():
            self._shadow.lost(now)
        pacer = self._shadow.lead(now, epoch)
        self._term = Term(epoch, self._limits, self._current, pacer, now + QUIET, self._gone)

    def _end(self) -> None:
        self._term = None
        self._shadow.resign()
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(Later(seconds=ELECTION))

    def _turn(self, term: Term) -> None:
        """Answers whoever can be answered, and comes back when the next one can."""
        now = self._clock()
        answers = term.due(now)
        self._say(term.news())
        for name, answer in answers:
            self._answer(name, answer)
        if term.limits != self._told:
            self._told = term.limits
            log.warning(
                "limits differ between workers or from the provider's; the lowest hold",
                requests=term.limits.requests,
                tokens=term.limits.tokens,
            )
        if self._timer is not None:
            self._timer.cancel()
        if (wake := term.wake(now)) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(TICK, wake - now), self._turn, term)

    def _answer(self, name: str, answer: Reply) -> None:
        future = self._waiting.pop(name, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def _say(self, granted: tuple[Entry, ...]) -> None:
        """Before any of these grants goes out; what became of others can wait for the next of them."""
        if granted:
            note = self._shadow.note(granted, *self._corrections)
            self._corrections = ((), ())
            self._live.broadcast(self._topic, encode_note(note))
