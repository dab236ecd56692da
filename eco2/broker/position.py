"""The position of a tail in its stream, over any number of attachments, and the check for a replaced stream.

An offset means nothing in a stream that was deleted and created again. So a tail that is attached again
starts at the record that it read last, and continues only if that record comes again, byte for byte.
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
        """True once this attachment has shown the last record again, unless the stream was replaced."""
        return self._expected is None and not self._replaced

    def attach(self) -> Start:
        """Returns the start of a new attachment."""
        self._expected = self._last
        return self._start if self._last is None else FromOffset(self._last.offset)

    def take(self, item: Record) -> None:
        """Takes a record of this attachment; it may lie before the start, as brokers send whole chunks."""
        if self._replaced:
            return
        if self._expected is not None:
            if item == self._expected:
                self._expected = None
            elif item.offset >= self._expected.offset:
                self._replaced = True
                log.warning("the stream is another one than before", offset=self._expected.offset)
                self._on_replaced()
            return
        if self._last is not None:
            is_new = item.offset > self._last.offset
        else:
            is_new = not (isinstance(self._start, FromOffset) and item.offset < self._start.offset)
        if is_new:
            self._last = item
            self._on_record(item)
