"""Runs `eco2 worker` with a leader that grants in the order of requests, to show the value of ranks.

The product has no such switch: the ranks are replaced in this process, before the worker starts. A request
that is repeated after a long wait keeps the time of its first arrival. A worker sends all of its requests at
once, since its window would let those of the best rank go first.

    python -m bench.budget.fifo worker
"""

from contextlib import nullcontext

from eco2 import cli
from eco2.quota import term, window

_first_asked: dict[str, float] = {}


def _rank(held: term._Held) -> tuple[bool, float]:
    return (False, _first_asked.setdefault(held.ask.id, held.since))


if __name__ == "__main__":
    setattr(term._Held, "rank", property(_rank))  # noqa: B010, SLF001  # a hook from outside: see above
    setattr(window.Line, "turn", lambda *_: nullcontext())  # noqa: B010
    cli.main()
