"""What asker and leader say to each other, as frozen values and as JSON: `{"v": 1, "body": {...}}`."""

from typing import TypeVar

import msgspec

from eco2.errors import Malformed
from eco2.pacer import Limits

SERVICE = "quota"
VERSION = 1

RUN_VOID = "RUN_VOID"
WITHDRAWN = "WITHDRAWN"
MALFORMED = "MALFORMED"

Message = TypeVar("Message")


class _Tagged(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    pass


class Ask(_Tagged, frozen=True, kw_only=True, tag="ask"):
    """Call `id` wants to go out. Asked again under the same id it is the same wish.

    `limits`: what this worker believes the minute's budget to be. The rest: see `eco2.ports.Claim`.
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


class Settled(msgspec.Struct, frozen=True):
    """Call `id` was counted as `tokens`."""

    id: str
    tokens: float


class PushedBack(msgspec.Struct, frozen=True):
    """The provider refused call `id` as too fast and asked for `retry_after` seconds, if any."""

    id: str
    retry_after: float | None = None


class Report(_Tagged, frozen=True, kw_only=True, tag="report"):
    """What became of calls. `unsent`: not a byte of them was or will be sent, granted or not."""

    worker: str
    limits: Limits
    unsent: tuple[str, ...] = ()
    settled: tuple[Settled, ...] = ()
    pushed_back: tuple[PushedBack, ...] = ()


class Office(_Tagged, frozen=True, kw_only=True, tag="office"):
    """The leader to itself, never answered while its term lasts: see `eco2.quota.office`."""

    token: str


Request = Ask | Report | Office


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


Reply = Granted | Later | Refused | Noted


class _Envelope(msgspec.Struct, frozen=True):
    body: msgspec.Raw
    v: int = VERSION


_envelope = msgspec.json.Decoder(_Envelope)
_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_reply: msgspec.json.Decoder[Reply] = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    return msgspec.json.encode(_Envelope(msgspec.Raw(msgspec.json.encode(message))))


def decode_request(body: bytes) -> Request:
    """Raises `Malformed` for what this version cannot read."""
    return _decode(body, _request)


def decode_reply(body: bytes) -> Reply:
    """Raises `Malformed` for what this version cannot read."""
    return _decode(body, _reply)


def _decode(body: bytes, decoder: "msgspec.json.Decoder[Message]") -> Message:
    try:
        envelope = _envelope.decode(body)
        if envelope.v != VERSION:
            raise Malformed(f"quota message of version {envelope.v}; this program reads {VERSION}")
        return decoder.decode(envelope.body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Malformed(f"undecodable quota message: {error}") from error
