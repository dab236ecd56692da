"""Parses a stream of server-sent events: takes bytes in pieces of any size, returns a job's events. No I/O.

The client uses it; programs with another HTTP library can use it, too.
"""

import re
from typing import Annotated, Literal

import msgspec

from eco2.errors import RetryableError
from eco2.job import JSON

MAX_EVENT_BYTES = 16 * 2**20
"""Of one event; results in the journal are less than half as large."""
MAX_QUOTED = 40
"""Characters of an unknown name that an error message repeats."""
_LINE_END = re.compile(rb"\r\n|\n|\r(?!\n|\Z)")

Ending = Literal["started", "completed", "failed", "cancelled"]


class _Data(msgspec.Struct, frozen=True, kw_only=True):
    """The data of an event; other members are ignored."""

    seq: Annotated[int, msgspec.Meta(ge=0, lt=2**53)] | None = None
    status: Ending | None = None
    ts: float | None = None
    progress: int | None = None
    result: JSON | None = None
    text: str | None = None
    stage: str | None = None
    attempt: int | None = None
    eta_seconds: float | None = None
    call: str | None = None
    done: int | None = None
    total: int | None = None


class ClientEvent(_Data, frozen=True, kw_only=True):
    """One event of a job. Durable ones have `id` and `seq`; live text (`name` ends in `.delta`) has `text`.

    `call`: the call that writes the text, where the stage has several; each call's text is apart.
    `retrying`: try number `attempt` of `stage` begins in about `eta_seconds`. Where `name` ends in
    `.progress`, `done` branches of the stage's `total` are done.
    `name`: the stage, or `queued`, `done`. `progress`: per cent. `ts`: Unix seconds. `result`: the stage's
    output or error, at `done` the whole result. `again`: the live text starts over, earlier pieces are void.
    """

    name: str
    id: str | None = None
    again: bool = False


class BrokenEvent(RetryableError):
    """The stream holds something that is no event of a job: open the stream again."""


class EventLines:
    """Parses server-sent events from bytes that come in pieces of any size.

    Holds at most `MAX_EVENT_BYTES` bytes of one event. It cannot be used after a `BrokenEvent`.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the last line, joined once: a line may be megabytes long
        self._held = 0
        self._begun = False
        self._fields: dict[str, str] = {}
        self._data: list[str] = []
        self._data_size = 0

    def feed(self, chunk: bytes) -> list[ClientEvent]:
        """Returns the events that `chunk` completed. Raises `BrokenEvent`."""
        self._pieces.append(chunk)
        self._held += len(chunk)
        events = []
        if b"\n" in chunk or b"\r" in chunk:
            *lines, rest = _LINE_END.split(b"".join(self._pieces))
            self._pieces, self._held = [rest], len(rest)
            for line in lines:
                if (event := self._line(line)) is not None:
                    events.append(event)
        if self._held + self._data_size > MAX_EVENT_BYTES:
            raise BrokenEvent(f"one event of the stream has more than {MAX_EVENT_BYTES:,} bytes")
        return events

    def _line(self, raw: bytes) -> ClientEvent | None:
        if not self._begun:
            raw, self._begun = raw.removeprefix(b"\xef\xbb\xbf"), True
        if not raw:
            return self._event()
        name, _, value = raw.partition(b":")
        if name not in (b"data", b"event", b"id"):
            return None
        try:
            text = value.removeprefix(b" ").decode()
        except UnicodeDecodeError as error:
            raise BrokenEvent(f"the stream is not UTF-8 ({error})") from error
        if name == b"data":
            self._data.append(text)
            self._data_size += len(raw) + 64  # an empty line takes memory, too
        elif name == b"event" or "\0" not in text:  # the standard ignores an id with NUL
            self._fields[name.decode()] = text
        return None

    def _event(self) -> ClientEvent | None:
        (fields, self._fields), (data, self._data) = (self._fields, {}), (self._data, [])
        self._data_size = 0
        if not data:
            return None
        name = fields.get("event", "message")
        try:
            values = msgspec.json.decode("\n".join(data), type=_Data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BrokenEvent(f"the event {name[:MAX_QUOTED]!r} cannot be decoded ({error})") from error
        if name == "done" and values.seq is None:
            raise BrokenEvent("the event 'done' has no seq")
        return ClientEvent(name=name, id=fields.get("id"), **msgspec.structs.asdict(values))


class LiveTexts:
    """Removes from live text what the reader has already: each connection sends it from the start."""

    def __init__(self) -> None:
        self._shown: dict[tuple[str, str | None], str] = {}
        self._places: dict[tuple[str, str | None], int] = {}

    def connected(self) -> None:
        """Notes a new connection, which may repeat text."""
        self._places = {}

    def take_new(self, event: ClientEvent) -> ClientEvent | None:
        """Returns the new part of a piece, if any. A text that differs from the shown one starts over."""
        stage, _, kind = event.name.rpartition(".")
        key = (stage, event.call)
        if kind == "reset":  # what follows says whether the text differs
            self._places[key] = 0
            return None
        if event.text is None:
            return event
        shown, place = self._shown.get(key, ""), self._places.get(key, 0)
        text = shown[:place] + event.text
        self._places[key] = len(text)
        if shown.startswith(text):
            return None
        self._shown[key] = text
        if text.startswith(shown):
            return msgspec.structs.replace(event, text=text[len(shown) :])
        return msgspec.structs.replace(event, text=text, again=True)
