"""Digests, error texts, the cut-off of stalled clients, and metrics."""

import asyncio
from collections.abc import AsyncGenerator
from decimal import Decimal

import pytest
from pydantic import BaseModel, ValidationError
from starlette.types import Message

from eco2.call import Usage
from eco2.gateway.body import digest
from eco2.gateway.problem import describe
from eco2.gateway.stream import EventStreamResponse
from eco2.metrics import Metrics
from eco2.pipeline import Form, Upload
from tests.clock import virtual


def test_the_digest_is_of_fields_and_bytes_and_not_of_their_order_or_file_names() -> None:
    form = Form({"a": "1", "b": ["물"]}, {"image": Upload("x.jpg", "image/jpeg", b"1")})
    same = Form({"b": ["물"], "a": "1"}, {"image": Upload("y.png", "image/png", b"1")})
    others = [
        Form({"a": 1, "b": ["물"]}, form.files),
        Form(form.fields),
        Form(form.fields, {"image": Upload("x.jpg", "image/jpeg", b"2")}),
        Form(form.fields, {"photo": form.files["image"]}),
    ]
    assert digest("scan", form) == digest("scan", same)
    digests = {digest("scan", form), digest("echo", form), *(digest("scan", other) for other in others)}
    assert len(digests) == 6
    assert digest("scan", Form({"n": 10**30})) != digest("scan", Form({"n": 10**30 + 1}))


def test_a_misfit_is_described_by_field_without_its_value() -> None:
    class Inner(BaseModel):
        size: int

    class Outer(BaseModel):
        items: list[Inner]

    with pytest.raises(ValidationError) as caught:
        Outer.model_validate({"items": [{"size": "secret"}] * 9})
    text = describe(caught.value)
    assert text.startswith("items.0.size: Input should be a valid integer")
    assert text.endswith("; and 4 more")
    assert "secret" not in text


class Sink:
    """An ASGI `send` that takes `takes` messages and then nothing more."""

    def __init__(self, takes: int) -> None:
        self.messages: list[Message] = []
        self._takes = takes

    async def __call__(self, message: Message) -> None:
        if len(self.messages) == self._takes:
            await asyncio.Event().wait()
        self.messages.append(message)


@virtual
async def test_a_client_that_takes_nothing_is_cut_off_and_its_generator_closed() -> None:
    closed = asyncio.Event()

    async def frames() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    sink = Sink(takes=3)
    began = asyncio.get_running_loop().time()
    await EventStreamResponse(frames(), stall=30.0).stream_response(sink)
    assert asyncio.get_running_loop().time() - began == pytest.approx(30.0)
    assert closed.is_set()
    assert [message.get("more_body") for message in sink.messages] == [None, True, True]


@virtual
async def test_waiting_for_news_is_no_stall() -> None:
    async def frames() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(3600)
        yield b"x"

    sink = Sink(takes=10)
    await EventStreamResponse(frames(), stall=30.0).stream_response(sink)
    assert [message.get("body") for message in sink.messages] == [None, b"x", b""]


def test_metrics_are_named_by_what_happened() -> None:
    metrics = Metrics()
    metrics.job_accepted("scan")
    metrics.job_started("scan")
    metrics.job_started("scan")
    metrics.job_ended("scan", "completed", 3.0)
    metrics.stage_ended("scan", "vision", "completed", 0.5)
    metrics.call_ended("vision", "gpt", "ok", 0.5, Usage(100, 20, 7, Decimal("0.25")))
    metrics.call_ended("vision", "gpt", "timeout", 60.0, None)
    metrics.count_skipped(lambda: 3)
    lines = metrics.render().decode().splitlines()
    for line in (
        'eco2_jobs_accepted_total{pipeline="scan"} 1.0',
        'eco2_jobs_running{pipeline="scan"} 1.0',
        'eco2_job_seconds_count{pipeline="scan",status="completed"} 1.0',
        'eco2_stage_seconds_sum{pipeline="scan",stage="vision",status="completed"} 0.5',
        'eco2_call_seconds_count{kind="vision",model="gpt",outcome="timeout"} 1.0',
        'eco2_tokens_total{direction="input",kind="vision",model="gpt"} 100.0',
        'eco2_tokens_total{direction="cached",kind="vision",model="gpt"} 20.0',
        'eco2_tokens_total{direction="output",kind="vision",model="gpt"} 7.0',
        'eco2_cost_usd_total{kind="vision",model="gpt"} 0.25',
        "eco2_journal_skipped_total 3.0",
        "eco2_sse_connections 0.0",
    ):
        assert line in lines


def test_two_processes_in_one_do_not_share_metrics() -> None:
    one, two = Metrics(), Metrics()
    one.job_accepted("scan")
    assert b"scan" not in two.render()
