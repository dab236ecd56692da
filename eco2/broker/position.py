"""Where a tail stands in its stream, over any number of attachments, and whether it is the same stream still.

An offset means nothing in a stream that was deleted and made again. So a tail that is attached again begins
at the record that it read last: only if that comes again, byte for byte, it goes on after it.
"""

from collections.abc import Callable

from eco2.log import get_logger
from eco2.ports import FromOffset, Record, Start

log = get_logger(__name__)


class Position:
    """`take` gets every record of every attachment; `on_record` gets what is new, in order and once.

    `on_replaced` is called once, when the stream turns out to be another one; nothing is new from then on.
    """

    def __init__(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None]
    ) -> None:
        self._start = start
        self._on_record = on_record
        self._on_replaced = on_replaced
        self._last: Record | None = None
        self._expected: Record | None = None
        """The last record, until the present attachment has shown it again."""
        self._replaced = False

    @property
    def proven(self) -> bool:
        """True while nothing speaks against the stream being the one that was read."""
        return self._expected is None and not self._replaced

    def attach(self) -> Start:
        """Where a new attachment begins to read."""
        self._expected = self._last
        return self._start if self._last is None else FromOffset(self._last.offset)

    def take(self, item: Record) -> None:
        """The present attachment shows `item`, perhaps one before its start: a broker gives whole chunks."""
        if self._replaced:
            return
        if self._expected is not None:
            self._compare(self._expected, item)
        elif self._is_new(item):
            self._last = item
            self._on_record(item)

    def _is_new(self, item: Record) -> bool:
        if self._last is not None:
            return item.offset > self._last.offset
        return not (isinstance(self._start, FromOffset) and item.offset < self._start.offset)

    def _compare(self, expected: Record, item: Record) -> None:
        if item == expected:
            self._expected = None
        elif item.offset >= expected.offset:
            self._replaced = True
            log.warning("the stream is another one than before", offset=expected.offset)
            self._on_replaced()
