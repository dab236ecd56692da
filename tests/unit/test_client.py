"""The client's pure parts: reading events from pieces, and pauses."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.client import Client, ClientEvent, ClientJob, pause
from eco2.errors import ConfigurationError
from eco2.eventstream import EventLines, LiveTexts

STREAM = (
    ": eco2\nretry: 2000\n"
    'event: vision\ndata: {"job_id":"j","stage":"vision","status":"completed","seq":11,"ts":1.5,'
    '"progress":25,"result":{"said":"줄\u2028바꿈"},"new":"field"}\nid: 12.1\n\n'
    ":\n"
    'event: answer.delta\ndata: {"text":"물로 "}\n\n'
).encode()
EVENTS = [
    ClientEvent(
        name="vision",
        stage="vision",
        id="12.1",
        seq=11,
        status="completed",
        ts=1.5,
        progress=25,
        result={"said": "줄\u2028바꿈"},
    ),
    ClientEvent(name="answer.delta", text="물로 "),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=8))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    lines = EventLines()
    bounds = [0, *sorted(cuts), len(STREAM)]
    read = [lines.feed(STREAM[start:end]) for start, end in itertools.pairwise(bounds)]
    assert list(itertools.chain(*read)) == EVENTS


def test_lines_may_end_as_a_proxy_likes_and_an_unfinished_event_is_none() -> None:
    assert EventLines().feed(STREAM.replace(b"\n", b"\r\n")) == EVENTS
    assert EventLines().feed(b"id: 1\nevent: done\ndata: {}\n") == []


def test_data_over_several_lines_is_one_value() -> None:
    assert EventLines().feed(b'event: done\ndata: {"seq":\ndata: 51}\n\n') == [
        ClientEvent(name="done", seq=51)
    ]


def said(texts: LiveTexts, *pieces: str, name: str = "answer.delta") -> list[tuple[str | None, bool]]:
    """What a reader is shown of pieces that come in: text, and whether it starts over."""
    new = [texts.take_new(ClientEvent(name=name, text=piece)) for piece in pieces]
    return [(event.text, event.again) for event in new if event is not None]


@given(st.text(max_size=12), st.lists(st.lists(st.integers(0, 12), max_size=4), min_size=1, max_size=4))
def test_live_text_is_shown_once_over_however_many_connections(
    text: str, connections: list[list[int]]
) -> None:
    texts, shown = LiveTexts(), ""
    for cuts in connections:
        texts.connected()
        bounds = sorted({0, *(min(cut, len(text)) for cut in cuts)})
        for piece, again in said(texts, *(text[start:end] for start, end in itertools.pairwise(bounds))):
            assert not again
            shown += piece or ""
    longest = max(max(cuts, default=0) for cuts in connections)
    assert shown == text[:longest]


def test_live_text_that_begins_anew_says_so_and_other_stages_do_not_mix() -> None:
    texts = LiveTexts()
    assert said(texts, "Rinse", " it") == [("Rinse", False), (" it", False)]
    assert said(texts, "Put", name="other.delta") == [("Put", False)]
    texts.connected()
    assert said(texts, "Rin", "d it", " well") == [("Rind it", True), (" well", False)]
    assert texts.take_new(ClientEvent(name="waiting")) == ClientEvent(name="waiting")


def test_texts_of_several_calls_do_not_mix_and_a_reset_is_of_one() -> None:
    texts = LiveTexts()

    def take(text: str, call: str | None) -> tuple[str | None, bool] | None:
        new = texts.take_new(ClientEvent(name="answer.delta", text=text, call=call))
        return None if new is None else (new.text, new.again)

    assert [take("Rinse", None), take("Put", "k"), take(" it", None)] == [
        ("Rinse", False),
        ("Put", False),
        (" it", False),
    ]
    assert texts.take_new(ClientEvent(name="answer.reset", call="k")) is None
    assert [take("Pu", "k"), take("t it", "k"), take(".", None)] == [None, (" it", False), (".", False)]
    assert texts.take_new(ClientEvent(name="answer.reset")) is None
    assert [take("Wash", None), take(" in", "k")] == [("Wash", True), (" in", False)]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "localhost", "", "ftp://host", "http://", "http://[::1"])
def test_a_base_url_that_cannot_be_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match="http://host:8000"):
        Client(url)


def test_a_job_of_a_known_id_has_the_gateways_urls() -> None:
    job = ClientJob.at("scan", "x", "/api/v1")
    assert (job.stream_url, job.result_url) == ("/api/v1/scan/x/events", "/api/v1/scan/x/result")


@pytest.mark.parametrize(
    ("failures", "asked", "chance", "seconds"),
    [
        (1, None, 1.0, 0.2),
        (1, None, 0.0, 0.1),
        (4, None, 1.0, 1.6),
        (1000, None, 1.0, 10.0),
        (1, 7.0, 0.5, 7.0),
    ],
)
def test_pauses_grow_up_to_a_limit_and_heed_the_gateway(
    failures: int, asked: float | None, chance: float, seconds: float
) -> None:
    assert pause(failures, asked, chance) == pytest.approx(seconds)
