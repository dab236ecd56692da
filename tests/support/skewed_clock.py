"""`python -m tests.support.skewed_clock ARGS`: the program on a machine whose wall clock is wrong.

`CLOCK_AHEAD`: seconds. Only `time.time` moves; the monotonic clock stays true, as on a machine without a time
service.
"""

import os
import time

AHEAD = float(os.environ["CLOCK_AHEAD"])
_true = time.time


def _wrong() -> float:
    return _true() + AHEAD


if __name__ == "__main__":
    time.time = _wrong
    from eco2.cli import main

    main()
