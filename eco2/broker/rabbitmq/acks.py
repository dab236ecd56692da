"""Acks in rows: what was settled in the order of its delivery is acked with one frame.

Single acks are most of what a job costs at the broker. A frame for a row says "this one, and all before it",
so it is sent only where all before it are settled already: a straggler never waits for an ack that is not its
own, and nobody else waits for the straggler.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Ack(NamedTuple):
    """One frame: of the delivery `tag`, or with `multiple` of all up to it."""

    tag: int
    multiple: bool


class Rows:
    """Which deliveries of one channel are settled; their tags count from 1 without gaps."""

    def __init__(self) -> None:
        self._whole = 0
        self._beyond: set[int] = set()

    def settled(self, tag: int) -> None:
        """The delivery was, or is going to be, settled by a frame that goes out before the next row."""
        self._beyond.add(tag)
        while self._whole + 1 in self._beyond:
            self._whole += 1
            self._beyond.remove(self._whole)

    def acks(self, tags: Iterable[int]) -> Iterator[Ack]:
        """The fewest frames that ack `tags` and nothing else that is unsettled, to be sent in this order."""
        tags = sorted(tags)
        for tag in tags:
            self.settled(tag)
        row = [tag for tag in tags if tag <= self._whole]
        if row:
            yield Ack(row[-1], multiple=len(row) > 1)
        for tag in tags[len(row) :]:
            yield Ack(tag, multiple=False)
