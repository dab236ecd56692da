"""What goes over the wire comes back equal; what this version cannot read is refused, not guessed."""

import pytest

from eco2.errors import CallTooLarge, DecodeError, PermanentError, StaleRun
from eco2.pacer import Limits, Snapshot
from eco2.quota.asker import refusal
from eco2.quota.message import (
    Ask,
    Granted,
    Later,
    Noted,
    Office,
    PushedBack,
    Refused,
    Reply,
    Report,
    Request,
    Settled,
    Told,
    decode_reply,
    decode_request,
    encode,
)

LIMITS = Limits(500.0, None)
ASK = Ask(
    id="a", worker="w", limits=LIMITS, job="j", run="r", offset=7, started=True, call="answer", tokens=9.5
)
REPORT = Report(
    worker="w", limits=LIMITS, unsent=("a",), settled=(Settled("b", 3.0),), pushed_back=(PushedBack("c"),)
)


@pytest.mark.parametrize("request_", [ASK, REPORT, Report(worker="w", limits=Limits()), Office(token="t")])
def test_requests_come_back(request_: Request) -> None:
    assert decode_request(encode(request_)) == request_


@pytest.mark.parametrize(
    "reply",
    [Granted(epoch="e", held=-0.5), Later(seconds=1.0), Refused(code="RUN_VOID", message="m"), Noted()],
)
def test_replies_come_back(reply: Reply) -> None:
    assert decode_reply(encode(reply)) == reply


def test_a_past_comes_back_and_versions_with_and_without_the_variances_read_each_other() -> None:
    past = Snapshot(requests=((1.0, 2.0),), tokens=((1.0, 50.0),), variances=((1.0, 900.0),))
    told = Told(epoch="e", seq=1, past=past)
    assert decode_reply(encode(told)) == told
    before = (
        b'{"v":1,"body":{"type":"told","epoch":"e","seq":1,"past":{"requests":[],"tokens":[],"new":[[1,2]]}}}'
    )
    assert decode_reply(before) == Told(epoch="e", seq=1, past=Snapshot())


def test_unknown_fields_are_ignored() -> None:
    assert decode_reply(b'{"v":1,"new":1,"body":{"type":"later","seconds":2,"new":1}}') == Later(seconds=2.0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"v":2,"body":{"type":"noted"}}',
        b'{"v":1,"body":{"type":"unheard-of"}}',
        b'{"v":1}',
    ],
)
def test_what_cannot_be_read_is_malformed(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_reply(body)
    with pytest.raises(DecodeError):
        decode_request(body)


def test_a_refusal_is_an_error_by_what_the_caller_does() -> None:
    assert isinstance(refusal(Refused(code="RUN_VOID", message="m")), StaleRun)
    assert isinstance(refusal(Refused(code="CALL_TOO_LARGE", message="m")), CallTooLarge)
    other = refusal(Refused(code="NEW", message="m"))
    assert isinstance(other, PermanentError)
    assert other.code == "NEW"
