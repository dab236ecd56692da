"""The spending of the present day (UTC), folded from the journal by every process alike.

Each stage event carries the cost of its calls, and is counted once even if it comes twice. Views do not reach
back to midnight, so the leader of the sweep writes the sum as `spent` every minute. The total is the last
`spent` plus the costs after the offset that it includes. A process without a `spent` in its view reads back
until it finds one, or midnight (`backfill_spending`).
"""

import asyncio
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from eco2.errors import DecodeError, RetryableError
from eco2.event import Spent, StageChanged, amount, decode_events
from eco2.journal.snapshots import SavedSpending
from eco2.log import get_logger
from eco2.ports import Clock, FromTime, Stream

MAX_COUNTED = 5_000
"""Stage events that are remembered one by one: a second copy, and a `spent` that includes them, come soon."""
RETRY_INTERVAL = 1.0
"""Seconds before a read that failed is repeated."""

MAX_SKEW = 60.0
"""Seconds by which clocks may differ."""

_Name = int
"""Hash of job, run, stage and status, which identify a stage event: they would take 300 bytes."""

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
    """Sums a day's costs. `first`: the offset from which on every message was folded.

    `complete`: no cost of the day is missing. `unpriced`: a call had no known price, and counts as 0.
    `written`: the last `spent`, perhaps of an earlier day. `counted`: events that may come a second time.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins as a new one."""
        self.first = -1
        self.day = ""
        self.complete = False
        self.unpriced = False
        self.written: Spent | None = None
        self._base = Decimal()
        self._up_to_offset = -1
        self._since: dict[_Name, tuple[int, Decimal]] = {}
        self.counted: dict[_Name, None] = {}

    def total(self, day: str) -> Decimal:
        """Returns the USD paid on `day`, the present or a later one."""
        if day != self.day:
            return Decimal()
        return self._base + sum((cost for _, cost in self._since.values()), Decimal())

    def begin(self, offset: int) -> None:
        """Notes the first message that is folded: from there on nothing is missed."""
        if self.first < 0:
            self.first = offset

    def paid(self, offset: int, event: StageChanged, now: float) -> None:
        """Counts the cost of a stage. `now`: a clock that is ahead must not begin the next day."""
        if event.usage is None:
            return
        name = hash((event.job, event.run, event.stage, event.status))
        if name in self.counted:
            return
        self.counted[name] = None
        if len(self.counted) > MAX_COUNTED:
            del self.counted[next(iter(self.counted))]
        cost = amount(event.usage.get("cost_usd"))
        self.unpriced |= cost is None
        if cost and self._today(day_of(min(event.ts, now))) and offset > self._up_to_offset:
            self._since[name] = (offset, cost)
            if len(self._since) > MAX_COUNTED:
                self._up_to_offset, oldest = self._since.pop(next(iter(self._since)))
                self._base += oldest

    def spent(self, event: Spent, now: float) -> None:
        """Takes the sum that the leader wrote, unless it includes less than the last one."""
        usd = amount(event.usd)
        if usd is None or event.day > day_of(now + MAX_SKEW):
            return
        if not self._today(event.day) or event.up_to_offset < self._up_to_offset:
            return
        self.written, self._base, self._up_to_offset = event, usd, event.up_to_offset
        self._since = {name: paid for name, paid in self._since.items() if paid[0] > event.up_to_offset}
        self.complete |= 0 <= self.first <= event.up_to_offset

    def save(self) -> SavedSpending | None:
        """Returns the sum so far; None while a cost of the day is missing."""
        usd = f"{self.total(self.day):f}"
        return SavedSpending(self.day, usd, self.unpriced, self.written) if self.complete else None

    def restore(self, saved: SavedSpending, offset: int) -> None:
        """Begins with what `save` returned after the record at `offset`."""
        self.day, self._base, self._up_to_offset = saved.day, Decimal(saved.usd), offset
        self.first, self.complete = offset + 1, True
        self.unpriced, self.written = saved.unpriced, saved.written

    def restart(self) -> None:
        """Continues with the journal that replaced this one: the sum so far is where it begins."""
        self._base, self._since = self.total(self.day), {}
        self.first = self._up_to_offset = -1
        self.written = None

    def merge_earlier(self, earlier: "Spending") -> None:
        """Adds `earlier`, the fold of the log before `first`."""
        if not self.complete and earlier.day and self._today(earlier.day):
            self._base += earlier.total(earlier.day)
            self._up_to_offset = max(self._up_to_offset, self.first - 1)
            self._since = {name: paid for name, paid in self._since.items() if name not in earlier.counted}
            self.unpriced |= earlier.unpriced
            self.written = self.written or earlier.written
        self.complete = True

    def _today(self, day: str) -> bool:
        """True if `day` is the present day; a later one becomes it."""
        if day > self.day:
            self.day, self._base, self._since = day, Decimal(), {}
        return day == self.day


async def backfill_spending(stream: Stream, spending: Spending, clock: Clock, window: float) -> None:
    """Completes the `spending` of a view of `window` seconds that found no `spent` in the journal.

    Reads from ever earlier times, since no `spent` was written while no process ran; at most from midnight.
    """
    reach = 2 * window
    while not spending.complete:
        now = clock()
        start = max(midnight(now), now - reach)
        try:
            earlier = await read_spending(stream, start, spending.first, now)
        except RetryableError as error:
            log.info("today's spending is not known yet; reading again", why=str(error))
            await asyncio.sleep(RETRY_INTERVAL)
            continue
        if earlier.complete or start == midnight(now):
            spending.merge_earlier(earlier)
        reach *= 2


async def read_spending(stream: Stream, start: float, end: int, now: float) -> Spending:
    """Folds the records from the time `start` up to, but without, the offset `end`."""
    spending = Spending()
    async with stream.read(FromTime(start)) as records:
        async for record in records:
            if record.offset >= end:
                break
            spending.begin(record.offset)
            try:
                events = decode_events(record.body)
            except DecodeError:
                continue  # the view has counted and logged it
            for event in events:
                if isinstance(event, Spent):
                    spending.spent(event, now)
                elif isinstance(event, StageChanged):
                    spending.paid(record.offset, event, now)
    return spending
