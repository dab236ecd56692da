"""How unkind the embedded broker is: nothing a real broker would not do, but often and on purpose.

Every decision comes from a seeded generator of its own kind, so that a test run can be repeated: with the
same seed, the n-th publish, acknowledgement, … of a server meets the same fate, whatever came in between.
"""

import enum
import random
from dataclasses import dataclass, fields
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """Rates (0..1) of each unkindness, and sizes. `CALM` has none."""

    seed: int
    late_confirm: float = 0.1
    """Publishes that take effect at once and are confirmed late: readers see the message first."""
    lost_confirm: float = 0.02
    """Publishes that take effect and end as `PublishUncertain`."""
    ghost: float = 0.02
    """Publishes that end as `PublishUncertain` and take effect later, after newer ones."""
    lost_publish: float = 0.01
    """Publishes that end as `PublishUncertain` and never take effect."""
    block: float = 0.005
    """Publishes that find the broker blocked (memory alarm); it stays blocked for a while."""
    cut: float = 0.005
    """Publishes and settlements during which the connection breaks."""
    lost_ack: float = 0.01
    """Acknowledgements that never reach the broker: the message comes again."""
    redeliver: float = 0.02
    """Deliveries that are taken away while they are worked on and go to another consumer if there is one."""
    gap: float = 0.2
    """Stream records in front of which offsets are left out."""
    lag: float = 0.1
    """Batches of a tail that come late: the writer's confirm comes first."""
    withheld: float = 0.0005
    """Publishes from which on a connection gets no confirms any more; all take effect."""
    silent: float = 0.0005
    """Batches from which on a tail shows nothing any more until it is attached again."""
    lost_live: float = 0.01
    """Live messages that are lost."""
    early: int = 300
    """`FromTime` starts up to so many records early."""
    most_gap: int = 50
    """Offsets left out at once, at most."""
    delay: float = 0.02
    """Seconds that anything late takes, at most; ghosts and alarms take up to five times as long."""


CALM = Chaos(**{each.name: 0 for each in fields(Chaos) if each.name != "most_gap"})


Unkindness = Literal["cut", "lost_ack", "redeliver", "lost_live", "withheld", "silent"]
"""Those that a broker has or has not, each by its rate in `Chaos`."""


class Fate(enum.Enum):
    """The fate of one publish."""

    CONFIRMED = "confirmed"
    LATE_CONFIRM = "late_confirm"
    LOST_CONFIRM = "lost_confirm"
    GHOST = "ghost"
    LOST = "lost_publish"
    BLOCKED = "block"
    CUT = "cut"


class Dice:
    """Draws the fates that `chaos` allows. Each kind of question has a generator of its own."""

    def __init__(self, chaos: Chaos = CALM) -> None:
        self.chaos = chaos
        self._generators: dict[str, random.Random] = {}

    def publish(self) -> Fate:
        """The fate of the next publish."""
        point = self._of("publish").random()
        for fate in Fate:
            if fate is Fate.CONFIRMED:
                continue
            rate: float = getattr(self.chaos, fate.value)
            if point < rate:
                return fate
            point -= rate
        return Fate.CONFIRMED

    def happens(self, what: Unkindness) -> bool:
        """Draws whether it happens this time."""
        return self._draw(what, getattr(self.chaos, what))

    def half(self) -> bool:
        """Did it take effect before the connection broke?"""
        return self._of("half").random() < 0.5

    def lag(self) -> float:
        """Seconds by which a tail's next batch is late."""
        return self.delay("lag") if self._draw("lags", self.chaos.lag) else 0.0

    def gap(self) -> int:
        """Offsets to leave out in front of the next record."""
        return self._of("size").randint(1, self.chaos.most_gap) if self._draw("gap", self.chaos.gap) else 0

    def early(self) -> int:
        """Records by which a `FromTime` starts early."""
        return self._of("early").randint(0, self.chaos.early)

    def delay(self, kind: str, times: float = 1.0) -> float:
        """Seconds until something late happens: never 0, at most `times` the longest delay."""
        return (1 - self._of(f"{kind} delay").random()) * self.chaos.delay * times

    def _draw(self, kind: str, rate: float) -> bool:
        return rate > 0 and self._of(kind).random() < rate

    def _of(self, kind: str) -> random.Random:
        if kind not in self._generators:
            self._generators[kind] = random.Random(f"{self.chaos.seed}/{kind}")
        return self._generators[kind]
