"""Sizing: every figure moves one way with every argument, the example by hand, and what `eco2 size` says."""

import json
import math
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eco2 import cli
from eco2.sizing import WORKER_CALLS, JobSize, Sizing
from eco2.sizing import size as size_for
from eco2.stages import SIZE

RATES = st.floats(1, 1e7)
LATENCIES = st.floats(0.01, 600)
TOKENS = st.floats(1, 1e6)
CALLS = st.integers(1, 20)
EXAMPLE = ("--rpm", "500", "--tpm", "500000", "--latency", "26", "--tokens", "2700")


def size(rpm: float, tpm: float, latency: float = 26.0, tokens: float = 2000.0, calls: int = 2) -> Sizing:
    return size_for(rpm, tpm, JobSize(calls, tokens, latency))


def never_lower(one: Sizing, other: Sizing) -> bool:
    """Is no figure of `other` below that of `one`?"""
    return all(after >= before for before, after in zip(astuple(one), astuple(other), strict=True))


@given(RATES, RATES, RATES, LATENCIES, TOKENS, CALLS)
def test_more_requests_never_lower_anything(
    rpm: float, more: float, tpm: float, latency: float, tokens: float, calls: int
) -> None:
    assert never_lower(size(rpm, tpm, latency, tokens, calls), size(rpm + more, tpm, latency, tokens, calls))


@given(RATES, RATES, RATES, LATENCIES, TOKENS, CALLS)
def test_more_tokens_a_minute_never_lower_anything(
    rpm: float, tpm: float, more: float, latency: float, tokens: float, calls: int
) -> None:
    assert never_lower(size(rpm, tpm, latency, tokens, calls), size(rpm, tpm + more, latency, tokens, calls))


@given(RATES, RATES, LATENCIES, LATENCIES, TOKENS, CALLS)
def test_a_longer_latency_never_lowers_anything(
    rpm: float, tpm: float, latency: float, more: float, tokens: float, calls: int
) -> None:
    assert never_lower(size(rpm, tpm, latency, tokens, calls), size(rpm, tpm, latency + more, tokens, calls))


@given(RATES, RATES, LATENCIES, TOKENS, TOKENS, CALLS, CALLS)
def test_dearer_jobs_never_raise_anything(
    rpm: float, tpm: float, latency: float, tokens: float, more: float, calls: int, further: int
) -> None:
    cheap = size(rpm, tpm, latency, tokens, calls)
    assert never_lower(size(rpm, tpm, latency, tokens + more, calls), cheap)
    assert never_lower(size(rpm, tpm, latency, tokens, calls + further), cheap)


@given(RATES, RATES, LATENCIES, TOKENS, CALLS)
def test_the_workers_that_are_needed_carry_all_that_is_in_flight(
    rpm: float, tpm: float, latency: float, tokens: float, calls: int
) -> None:
    sized = size(rpm, tpm, latency, tokens, calls)
    assert sized.needed * sized.concurrency >= sized.calls_in_flight
    assert sized.needed * sized.prefetch >= sized.jobs_in_flight
    assert sized.prefetch >= sized.concurrency >= 1
    assert sized.replicas >= 2
    assert sized.jobs_per_minute * calls <= rpm * (1 + 1e-9)
    assert sized.jobs_per_minute * tokens <= tpm * (1 + 1e-9)


@given(RATES, LATENCIES)
def test_a_slower_provider_and_chance_find_room(rpm: float, latency: float) -> None:
    sized = size(rpm, 1e12, latency)
    mean = min(sized.calls_in_flight, WORKER_CALLS)
    assert sized.concurrency >= 1.25 * mean
    assert sized.concurrency >= mean + 3 * math.sqrt(mean)


def test_the_example_by_hand() -> None:
    sized = size(500, 500_000, latency=26, tokens=2700)
    assert sized.binding == "tokens"
    assert sized.jobs_per_minute == pytest.approx(185.185, abs=1e-3)
    assert sized.calls_in_flight == pytest.approx(80.247, abs=1e-3)  # 3.0864 jobs/s × 26 s
    assert sized.jobs_in_flight == pytest.approx(84.259, abs=1e-3)
    assert sized.concurrency == 108  # 80.25 + 3 × 8.96 = 107.1
    assert sized.prefetch == 112  # 84.26 + 3 × 9.18 = 111.8
    assert (sized.needed, sized.replicas) == (1, 2)
    assert sized.worker_mb == 125  # 80 + 0.4 × 112
    assert sized.gateway_mb == 110
    assert sized.cores == pytest.approx(0.1389, abs=1e-4)


def test_the_scan_is_the_default() -> None:
    scan = ("--calls", str(SIZE.calls), "--tokens", str(SIZE.tokens), "--latency", str(SIZE.latency))
    assert said("--rpm", "500") == said("--rpm", "500", *scan)


def test_requests_bind_where_jobs_are_cheap() -> None:
    sized = size(500, 500_000, latency=26, tokens=1900)
    assert (sized.binding, sized.jobs_per_minute) == ("requests", 250)


def test_more_than_one_worker_was_seen_to_bear_is_given_to_more() -> None:
    one, ten = size(500, 10**9), size(5000, 10**9)
    assert (one.needed, ten.needed) == (1, 10)
    assert ten.concurrency == math.ceil(WORKER_CALLS + 3 * math.sqrt(WORKER_CALLS))


def test_short_calls_need_workers_for_their_cpu() -> None:
    sized = size(60_000, 10**9, latency=0.1)  # 500 jobs/s, 50 in flight, 22.5 cores
    assert sized.needed == 33


def said(*args: str) -> str:
    result = CliRunner().invoke(cli.app, ["size", *args])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_table_gives_a_reason_for_each_figure() -> None:
    lines = said(*EXAMPLE).splitlines()
    values = {line[:18].strip(): line[18:].split(maxsplit=1) for line in lines}
    assert {name: value for name, (value, _) in values.items()} == {
        "binding limit": "tokens",
        "jobs a minute": "185.2",
        "calls in flight": "80.2",
        "jobs in flight": "84.3",
        "ECO2_CONCURRENCY": "108",
        "ECO2_PREFETCH": "112",
        "replicas": "2",
        "worker, MB": "125",
        "gateway, MB": "110",
        "pictures, MB": "268",
    }
    assert all(len(why) > 20 for _, why in values.values())
    assert max(map(len, lines)) <= 110


def test_the_documentation_shows_what_the_command_says() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sizing.md").read_text()
    assert f"eco2 size {' '.join(EXAMPLE)}\n" in text
    assert f"```text\n{said(*EXAMPLE)}```\n" in text


def test_json_has_every_figure() -> None:
    sized = size(500, 500_000, 26, 2700)
    shown = json.loads(said(*EXAMPLE, "--json"))
    assert shown["binding"] == sized.binding
    assert shown["jobs_per_second"] == sized.jobs_per_second
    assert all(shown[name] == getattr(sized, name) for name in Sizing.__dataclass_fields__)


def test_limits_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_RPM", "60")
    monkeypatch.setenv("ECO2_TPM", "")
    assert json.loads(said("--json"))["jobs_per_minute"] == 30


@pytest.mark.parametrize("option", ["--rpm", "--tpm", "--latency", "--tokens", "--calls"])
def test_nothing_is_sized_by_zero(option: str) -> None:
    assert CliRunner().invoke(cli.app, ["size", option, "0"]).exit_code == 2
