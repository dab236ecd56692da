"""`eco2 worker`, but as a leader it grants in the order of asking. It shows what ranks are worth.

The product has no such switch: the ranks are replaced in this process, before the worker starts. An ask that
comes again, since it had to wait for long, keeps the time of its first coming; claims of one process, which
all get the same rank, go out in the order of their coming.

    python -m bench.budget.fifo worker
"""

from eco2 import cli, ports
from eco2.quota import term

_first_asked: dict[str, float] = {}


def _rank(held: term._Held) -> tuple[bool, float]:
    return (False, _first_asked.setdefault(held.ask.id, held.since))


if __name__ == "__main__":
    setattr(term._Held, "rank", property(_rank))  # noqa: B010, SLF001  # a hook from outside: see above
    setattr(ports.Claim, "rank", property(lambda _: (False, 0)))  # noqa: B010
    cli.main()
