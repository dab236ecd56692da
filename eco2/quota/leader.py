"""The process that grants: of all that run a `Leader` the broker elects one. Only I/O; `Term` decides.

A leader that begins knows nothing and needs nothing: its window is full and empties evenly. Until it is in
office it tells everyone to ask again at once.
"""

import asyncio
import time

from eco2.errors import Malformed
from eco2.log import get_logger
from eco2.pacer import Counting, Limits
from eco2.ports import Clock, Rpc
from eco2.quota.message import (
    MALFORMED,
    SERVICE,
    Ask,
    Later,
    Noted,
    Office,
    Refused,
    Reply,
    Report,
    decode_request,
    encode,
)
from eco2.quota.office import Seat
from eco2.quota.term import Current, Term

ELECTION = 0.5
"""Seconds after which one that asked between two terms asks again; the new term grants nothing sooner."""

TICK = 0.001
"""Seconds: timers are no finer, and one that fires too early must not be set again for no time at all."""

log = get_logger(__name__)


class Leader:
    """`current`: see `eco2.quota.term.Current`. `largest`: the tokens of the largest call that is made here.

    `clock`: seconds of this process alone, never set back.
    """

    def __init__(
        self,
        rpc: Rpc,
        limits: Limits,
        current: Current,
        counting: Counting = "request",
        largest: float = 0.0,
        clock: Clock = time.monotonic,
    ) -> None:
        self._rpc = rpc
        self._limits = limits
        self._current = current
        self._counting = counting
        self._largest = largest
        self._clock = clock
        self._seat = Seat(rpc, self._begin, self._end)
        self._term: Term | None = None
        self._told = limits
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def leading(self) -> bool:
        return self._term is not None

    async def run(self, stop: asyncio.Event) -> None:
        """Stands for election until `stop` is set; then it leaves what waits to its successor."""
        serving = self._rpc.serve(SERVICE, self._handle)
        async with asyncio.TaskGroup() as group:
            seat = group.create_task(self._seat.run())
            await stop.wait()
            seat.cancel()
            await asyncio.wait((seat,))
            await serving.cancel()

    async def _handle(self, body: bytes) -> bytes:
        try:
            request = decode_request(body)
        except Malformed as error:
            return encode(Refused(code=MALFORMED, message=f"{error}: give all processes one version"))
        match request:
            case Office():
                await self._seat.hold(request)
                return encode(Noted())
            case Report():
                return encode(self._report(request))
            case Ask():
                return encode(await self._ask(request))

    def _report(self, report: Report) -> Reply:
        if self._term is None:
            # It is about grants of an earlier term, and the next begins with a full window anyway.
            self._seat.want()
        else:
            self._term.report(self._clock(), report)
            self._turn(self._term)
        return Noted()

    async def _ask(self, ask: Ask) -> Reply:
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
        try:
            return await future
        finally:
            if self._waiting.get(ask.id) is future:
                del self._waiting[ask.id]
                term.forget(ask.id)

    def _begin(self, epoch: str) -> None:
        log.info("quota term begins", epoch=epoch)
        self._term = Term(epoch, self._limits, self._counting, self._current, self._clock(), self._largest)

    def _end(self) -> None:
        self._term = None
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(Later(seconds=ELECTION))

    def _turn(self, term: Term) -> None:
        """Answers whoever can be answered, and comes back when the next one can."""
        now = self._clock()
        for name, answer in term.due(now):
            future = self._waiting.pop(name, None)
            if future is not None and not future.done():
                future.set_result(answer)
        self._warn(term)
        if self._timer is not None:
            self._timer.cancel()
        if (wake := term.wake(now)) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(TICK, wake - now), self._turn, term)

    def _warn(self, term: Term) -> None:
        if term.limits != self._told:
            self._told = term.limits
            log.warning(
                "limits differ between workers or from the provider's; the lowest hold",
                requests=term.limits.requests,
                tokens=term.limits.tokens,
            )
