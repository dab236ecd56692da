"""Runs `eco2 worker` with a leader that grants in the order of requests, to show the value of ranks.

The product has no such switch: the rank is replaced in this process, before the worker starts. A request that
is made again, since its grant came too late, gets a new place.

    python -m bench.budget.fifo worker
"""

from eco2 import cli
from eco2.quota import member
from eco2.quota.scheduler import Request


def by_arrival(request: Request) -> tuple[float, ...]:
    """Orders requests by when the leader read them."""
    return (request.since,)


if __name__ == "__main__":
    setattr(member, "by_rank", by_arrival)  # noqa: B010  # a hook from outside: see above
    cli.main()
