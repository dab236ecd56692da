"""What was paid on the present day (UTC), folded from the journal by every process alike.

Each stage event tells what its calls cost, and is counted once, however often it comes. Views do not reach
back to midnight, so the leader of the sweep writes the sum as `spent` every minute: the total is the last
`spent`, and what followed the offset up to which it counted. A process that finds no `spent` in its view
reads back until it finds one, or midnight (`Recall`).
"""

import asyncio
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from eco2.errors import DecodeError, RetryableError
from eco2.event import Spent, StageChanged, amount, decode_events
from eco2.log import get_logger
from eco2.ports import Clock, FromTime, Record, Stream

REMEMBERED = 20_000
"""Stage events that are known to be counted: what is written twice comes within minutes."""
AGAIN = 1.0
"""Seconds before a read that broke off is begun anew."""

APART = 60.0
"""Seconds by which clocks may differ."""

_Name = tuple[str, str, str, str]
"""Job, run, stage and status: what tells the events of stages apart."""

log = get_logger(__name__)


def day_of(ts: float) -> str:
    """The UTC day of a time in Unix seconds: `2026-11-26`."""
    return datetime.fromtimestamp(ts, UTC).date().isoformat()


def midnight(ts: float) -> float:
    """When the UTC day of `ts` began, in Unix seconds."""
    return datetime.combine(datetime.fromtimestamp(ts, UTC).date(), time.min, UTC).timestamp()


def until_midnight(ts: float) -> float:
    """Seconds until the next UTC day begins."""
    return midnight(ts) + timedelta(days=1).total_seconds() - ts


class Spending:
    """`first`: the offset from which on it was told of everything. `complete`: nothing of the day is missing.

    `unpriced`: there was a call without a known price, which counts as 0. `written`: the last `spent`, which
    may be of an earlier day. `counted`: events that were, as far as they can come again.
    """

    def __init__(self) -> None:
        self.first = -1
        self.day = ""
        self.complete = False
        self.unpriced = False
        self.written: Spent | None = None
        self._base = Decimal()
        self._upto = -1
        self._since: dict[_Name, tuple[int, Decimal]] = {}
        self.counted: dict[_Name, None] = {}

    def total(self, day: str) -> Decimal:
        """USD that were paid on that day, the present or a later one."""
        if day != self.day:
            return Decimal()
        return self._base + sum((cost for _, cost in self._since.values()), Decimal())

    def begin(self, offset: int) -> None:
        """A message is read; nothing is missed from the first one on."""
        if self.first < 0:
            self.first = offset

    def paid(self, offset: int, event: StageChanged, now: float) -> None:
        """A stage ended at `offset`. `now`: a clock ahead must not begin the next day."""
        if event.usage is None:
            return
        name = (event.job, event.run, event.stage, event.status)
        if name in self.counted:
            return
        self.counted[name] = None
        if len(self.counted) > REMEMBERED:
            del self.counted[next(iter(self.counted))]
        cost = amount(event.usage.get("cost_usd"))
        self.unpriced |= cost is None
        if cost and self._today(day_of(min(event.ts, now))) and offset > self._upto:
            self._since[name] = (offset, cost)

    def spent(self, event: Spent, now: float) -> None:
        """The leader wrote the sum. One that counted less far than the last changes nothing."""
        usd = amount(event.usd)
        if usd is None or event.day > day_of(now + APART):
            return
        if not self._today(event.day) or event.upto < self._upto:
            return
        self.written, self._base, self._upto = event, usd, event.upto
        self._since = {name: paid for name, paid in self._since.items() if paid[0] > event.upto}
        self.complete |= 0 <= self.first <= event.upto

    def restart(self) -> None:
        """The journal is another one: what was counted so far is the beginning of what follows in it."""
        self._base, self._since = self.total(self.day), {}
        self.first = self._upto = -1
        self.written = None

    def preceded(self, earlier: "Spending") -> None:
        """What was in the log before `first` came to `earlier`."""
        if not self.complete and earlier.day and self._today(earlier.day):
            self._base, self._upto = earlier.total(earlier.day), self.first - 1
            self._since = {name: paid for name, paid in self._since.items() if name not in earlier.counted}
            self.unpriced |= earlier.unpriced
            self.written = self.written or earlier.written
        self.complete = True

    def _today(self, day: str) -> bool:
        """Whether it is the present day, which it is from now on if it is later."""
        if day > self.day:
            self.day, self._base, self._since = day, Decimal(), {}
        return day == self.day


class Recall:
    """Completes the spending of a view whose own reach has no `spent`, once and for all."""

    def __init__(self, stream: Stream, spending: Spending, clock: Clock, keep: float) -> None:
        self._stream = stream
        self._spending = spending
        self._clock = clock
        self._keep = keep

    async def complete(self) -> None:
        """Reads back from where the view begins: ever further, since before it may lie a time in which nobody
        wrote."""
        while not self._spending.complete:
            try:
                self._spending.preceded(await self._earlier())
            except RetryableError as error:
                log.info("what was paid today is not known yet; reading again", why=str(error))
                await asyncio.sleep(AGAIN)

    async def _earlier(self) -> Spending:
        now, reach = self._clock(), 2 * self._keep
        while True:
            start = max(midnight(now), now - reach)
            earlier = await self._read(start)
            if earlier.complete or start == midnight(now):
                return earlier
            reach *= 2

    async def _read(self, start: float) -> Spending:
        earlier, now = Spending(), self._clock()
        async with self._stream.read(FromTime(start)) as records:
            async for record in records:
                if record.offset >= self._spending.first:
                    break
                _fold(earlier, record, now)
        return earlier


def _fold(spending: Spending, record: Record, now: float) -> None:
    spending.begin(record.offset)
    try:
        events = decode_events(record.body)
    except DecodeError:
        return  # whoever tails it has counted and logged it
    for event in events:
        if isinstance(event, Spent):
            spending.spent(event, now)
        elif isinstance(event, StageChanged):
            spending.paid(record.offset, event, now)
