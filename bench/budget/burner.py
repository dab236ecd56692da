"""Keeps a core busy half of the time: `python -m bench.budget.burner SEED`, for an hour at the most.

It works and sleeps in turn, for 25 to 75 ms each, as a neighbour would that serves requests.
"""

import sys
import time
from random import Random

HOUR = 3600.0
SLICE = (0.025, 0.075)
"""Seconds, at least and at most, of work and of sleep."""


def main(seed: int) -> None:
    """Works and sleeps in turn. Whoever starts it may kill it before the hour is over."""
    dice, end = Random(seed), time.monotonic() + HOUR
    while time.monotonic() < end:
        until = time.monotonic() + dice.uniform(*SLICE)
        while time.monotonic() < until:
            pass
        time.sleep(dice.uniform(*SLICE))


if __name__ == "__main__":
    main(int(sys.argv[1]))
