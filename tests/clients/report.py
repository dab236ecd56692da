"""What a client in another language tells the test, a JSON object at a time."""

from typing import Any, Literal

import msgspec


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of a scan. `name`, `id`: of an event; `closed`: the stream will not connect again.

    `body`: the answer, the event's data, what an event named error carried, or a bug of the client's.
    """

    kind: Literal["submitted", "open", "event", "error", "result", "show", "write", "bug"]
    name: str = ""
    id: str = ""
    status: int = 0
    closed: bool = False
    body: Any = None

    @property
    def seq(self) -> int | None:
        """The `seq` of a durable event."""
        return self.body.get("seq") if isinstance(self.body, dict) else None


def read(line: bytes) -> Report:
    """Raises `msgspec.ValidationError` for what is no report."""
    return msgspec.json.decode(line, type=Report)
