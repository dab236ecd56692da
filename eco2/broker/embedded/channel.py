"""The resources of one connection to the embedded broker.

Everything that must end with the connection (unsettled deliveries, readers) registers itself here;
closing runs all of it once, the youngest first, so that messages return in their old order.
"""

from collections.abc import Callable


class Channel:
    """One connection's life, from connecting to being closed or cut."""

    def __init__(self, on_cut: Callable[[], None]) -> None:
        self._on_cut = on_cut
        self._closing: dict[Callable[[], object], None] = {}
        self.open = True

    def on_close(self, end: Callable[[], object]) -> None:
        """Calls `end` when the connection goes, unless it is forgotten before."""
        self._closing[end] = None

    def forget(self, end: Callable[[], object]) -> None:
        self._closing.pop(end, None)

    def close(self) -> None:
        """The connection is gone. A second call does nothing."""
        self.open = False
        while self._closing:
            end, _ = self._closing.popitem()
            end()

    def cut(self) -> None:
        """Breaks the connection from the broker's side."""
        if self.open:
            self._on_cut()
