"""The spending of the present day (UTC), folded from the journal by every process alike.

Each stage event carries the cost of its calls, and is counted once even if it comes twice. Snapshots have the
sum. A process that needs it and starts without a snapshot reads the journal from midnight on.
"""

import math
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal

from eco2.event import StageChanged, amount
from eco2.journal.snapshots import SavedSpending

MAX_COUNTED = 5_000
"""Stage events that are remembered one by one: a second copy comes soon."""
RESEND_TIME = 20.0
"""Seconds in which an event that was written before the journal was replaced may come in the next one."""


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
    """Sums a day's costs. `since`: from when on it knows all (Unix s).

    `unpriced`: a call had no known price, and counts as 0.
    """

    def __init__(self) -> None:
        self.forget(-math.inf)

    def forget(self, since: float) -> None:
        """Begins as a new one, with costs from `since` on."""
        self.since = self._counts_from = since
        self.unpriced = False
        self._day, self._usd = "", Decimal()
        self._counted: dict[int, None] = {}

    def total(self, day: str) -> Decimal:
        """Returns the USD paid on `day`, the present or a later one."""
        return self._usd if day == self._day else Decimal()

    def paid(self, event: StageChanged, now: float) -> None:
        """Counts the cost of a stage. `now`: a clock that is ahead must not begin the next day."""
        name = hash((event.job, event.run, event.stage, event.status))  # the texts would take 300 bytes
        if event.usage is None or name in self._counted or event.ts < self._counts_from:
            return
        self._counted[name] = None
        if len(self._counted) > MAX_COUNTED:
            del self._counted[next(iter(self._counted))]
        cost, day = amount(event.usage.get("cost_usd")), day_of(min(event.ts, now))
        self.unpriced |= cost is None
        if day > self._day:
            self._day, self._usd = day, Decimal()
        if cost is not None and day == self._day:
            self._usd += cost

    def save(self) -> SavedSpending:
        """Returns the sum so far."""
        return SavedSpending(self.since, self._day, f"{self._usd:f}", self.unpriced)

    def restore(self, saved: SavedSpending) -> None:
        """Begins with what `save` returned."""
        self.forget(saved.since)
        self._day, self._usd, self.unpriced = saved.day, Decimal(saved.usd), saved.unpriced

    def restart(self, now: float) -> None:
        """Continues with the journal that replaced this one: what it has of before is in the sum already."""
        self._counts_from = now - RESEND_TIME
