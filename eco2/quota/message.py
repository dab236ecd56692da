"""The messages between asker and leader, as frozen values and as JSON: `{"v": 1, "body": {...}}`."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from eco2.errors import DecodeError
from eco2.pacer import Limits, Snapshot

VERSION = 1

RUN_VOID = "RUN_VOID"
WITHDRAWN = "WITHDRAWN"
MALFORMED = "MALFORMED"

Message = TypeVar("Message")


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    pass


class Ask(_Tagged, frozen=True, kw_only=True, tag="ask"):
    """Call `id` wants to go out. Asked again under the same id it is the same wish.

    `limits`: what this worker believes the minute's budget to be; `own`: what it was given, without what the
    provider named. The rest: see `eco2.ports.GrantRequest`.
    """

    id: str
    worker: str
    limits: Limits
    job: str
    run: str
    offset: int
    started: bool
    call: str
    tokens: float
    own: Limits | None = None


class Settled(msgspec.Struct, frozen=True):
    """Call `id` was counted as `tokens`."""

    id: str
    tokens: float


class PushedBack(msgspec.Struct, frozen=True):
    """The provider refused call `id` as too fast and asked for `retry_after` seconds, if any."""

    id: str
    retry_after: float | None = None


class Report(_Tagged, frozen=True, kw_only=True, tag="report"):
    """Reports what became of calls. `unsent`: not a byte of them was or will be sent, granted or not."""

    worker: str
    limits: Limits
    unsent: tuple[str, ...] = ()
    settled: tuple[Settled, ...] = ()
    pushed_back: tuple[PushedBack, ...] = ()
    own: Limits | None = None


class Office(_Tagged, frozen=True, kw_only=True, tag="office"):
    """The leader to itself, never answered while its term lasts: see `eco2.quota.office`. With an empty token
    it is a mere sign of life, answered at once."""

    token: str


class Tell(_Tagged, frozen=True, kw_only=True, tag="tell"):
    """A candidate that missed something asks what was spent."""


Request = Ask | Report | Office | Tell


class Entry(msgspec.Struct, frozen=True):
    """Call `id`, of kind `call`, was granted for `tokens`."""

    id: str
    tokens: float
    call: str


class Note(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The leader to all candidates, by live messages: what it grants, said before the grants go out.

    `seq` counts the notes of all leaders, one after the other; `first` is that of this epoch's first note.
    """

    epoch: str
    first: int
    seq: int
    granted: tuple[Entry, ...] = ()
    settled: tuple[Settled, ...] = ()
    unsent: tuple[str, ...] = ()
    v: int = VERSION


class Granted(_Tagged, frozen=True, kw_only=True, tag="granted"):
    """The call may go out. It was granted `held` seconds after this ask came (before it, if negative).

    Counted from when it was asked, that is never later than the real moment, and needs no common clock.
    `epoch`: the leader's term.
    """

    epoch: str
    held: float


class Later(_Tagged, frozen=True, kw_only=True, tag="later"):
    """Not yet. Ask again, under the same id, in `seconds`."""

    seconds: float


class Refused(_Tagged, frozen=True, kw_only=True, tag="refused"):
    """It never may: `CALL_TOO_LARGE`, `RUN_VOID`, `WITHDRAWN` by its asker, `MALFORMED` for this leader."""

    code: str
    message: str


class Noted(_Tagged, frozen=True, kw_only=True, tag="noted"):
    """Read; nothing else to say."""


class Told(_Tagged, frozen=True, kw_only=True, tag="told"):
    """A snapshot of what was spent, up to note `seq` of this epoch; ages are those at the reply."""

    epoch: str
    seq: int
    past: Snapshot


Reply = Granted | Later | Refused | Noted | Told


class _Envelope(msgspec.Struct, frozen=True):
    body: msgspec.Raw
    v: int = VERSION


_envelope = msgspec.json.Decoder(_Envelope)
_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def encode_note(note: Note) -> bytes:
    return msgspec.json.encode(note)


def decode_note(body: bytes) -> Note | None:
    """None for what this version cannot read: whoever misses a note begins anew."""
    try:
        note = msgspec.json.decode(body, type=Note)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return note if note.v == VERSION else None


def encode(message: Request | Reply) -> bytes:
    return msgspec.json.encode(_Envelope(msgspec.Raw(msgspec.json.encode(message))))


def decode(decoder: "msgspec.json.Decoder[Message]", body: bytes) -> Message:
    """Decodes a message. Raises `DecodeError` for one that this version cannot read."""
    try:
        envelope = _envelope.decode(body)
        if envelope.v != VERSION:
            raise DecodeError(f"quota message of version {envelope.v}; this program reads {VERSION}")
        return decoder.decode(envelope.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(f"undecodable quota message: {error}") from error


decode_request: Callable[[bytes], Request] = partial(decode, _request)
decode_reply: Callable[[bytes], Reply] = partial(decode, _reply)
