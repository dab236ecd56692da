"""Reading a stream of server-sent events: bytes in pieces of any size in, a job's events out. No I/O.

The client uses it; so can whoever brings the bytes by another library.
"""

from typing import Literal

import msgspec

from eco2.job import JSON


class ClientEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a job. Durable ones have `id` and `seq`; live text (`name` ends in `.delta`) has `text`.

    `name`: the stage, or `queued`, `done`. `progress`: per cent. `ts`: Unix seconds. `result`: the stage's
    output or error, at `done` the whole result. `again`: the live text starts over, what came of it is void.
    """

    name: str
    id: str | None = None
    seq: int | None = None
    status: Literal["started", "completed", "failed", "cancelled"] | None = None
    ts: float | None = None
    progress: int | None = None
    result: JSON | None = None
    text: str | None = None
    again: bool = False


class EventLines:
    """Reads server-sent events from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}

    def feed(self, chunk: bytes) -> list[ClientEvent]:
        """The events that `chunk` completed."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        events = (self._line(line.removesuffix(b"\r").decode()) for line in lines)
        return [event for event in events if event is not None]

    def _line(self, line: str) -> ClientEvent | None:
        if line:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            again = name == "data" and name in self._fields
            self._fields[name] = f"{self._fields[name]}\n{value}" if again else value
            return None
        fields, self._fields = self._fields, {}
        if "data" not in fields:
            return None
        data = msgspec.json.decode(fields["data"], type=JSON)
        return msgspec.convert(
            {**data, "name": fields.get("event", "message"), "id": fields.get("id")}, ClientEvent
        )


class LiveTexts:
    """Live text without what a reader has already: every connection begins it anew."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self._places: dict[str, int] = {}

    def connected(self) -> None:
        """A new connection: what comes now may be known."""
        self._places = {}

    def news(self, event: ClientEvent) -> ClientEvent | None:
        """What of a piece is new; None if nothing is. A text that differs from the known one starts over."""
        if event.text is None:
            return event
        known, place = self._known.get(event.name, ""), self._places.get(event.name, 0)
        text = known[:place] + event.text
        self._places[event.name] = len(text)
        if known.startswith(text):
            return None
        self._known[event.name] = text
        if text.startswith(known):
            return msgspec.structs.replace(event, text=text[len(known) :])
        return msgspec.structs.replace(event, text=text, again=True)
