"""Orders the trials: every round has every trial once and begins one contender further.

A machine that becomes slower, or a neighbour's temporary load, then affects all contenders alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.core.contender import CONTENDERS, SLEEP, Contender
from bench.core.trial import Trial

IDLE_ROUNDS, SLEEPING_ROUNDS = 5, 3
"""Jobs that sleep spread less."""
WORKERS = (1, 2)


@dataclass(frozen=True, slots=True)
class Plan:
    """The order of trials. `workers`: the numbers of workers for empty jobs; jobs that sleep always have
    one worker."""

    contenders: tuple[Contender, ...] = CONTENDERS
    idle: int = IDLE_ROUNDS
    sleeping: int = SLEEPING_ROUNDS
    workers: tuple[int, ...] = WORKERS

    def __iter__(self) -> Iterator[tuple[int, Trial]]:
        """Yields each trial with the number of its round."""
        for number in range(max(self.idle, self.sleeping)):
            for contender in rotated(self.contenders, number):
                if number < self.idle:
                    for workers in self.workers:
                        yield number, Trial(contender, workers, 0.0)
                if number < self.sleeping:
                    yield number, Trial(contender, 1, SLEEP)

    def __len__(self) -> int:
        return len(self.contenders) * (self.idle * len(self.workers) + self.sleeping)


def rotated(contenders: Sequence[Contender], number: int) -> Sequence[Contender]:
    """Returns the contenders in the order of round `number`."""
    turn = number % len(contenders)
    return [*contenders[turn:], *contenders[:turn]]
