"""Writes the seed's half of docs/benchmarks.md from the JSON, and the summary for the terminal."""

from collections.abc import Iterable
from typing import Any

from bench.record import FOLDER, Results
from bench.seed.scenario import IN_FLIGHT
from bench.seed.verdict import Check, checks

PAGE = FOLDER.parent.parent / "docs" / "benchmarks.md"
RESULTS = FOLDER / "seed.json"
BEGIN, END = "<!-- seed -->", "<!-- end seed -->"
PICTURES = (
    ("Scans a second against the ceiling", "seed-throughput"),
    ("How long a scan takes", "seed-latency"),
    ("Memory of the workers against calls in flight", "seed-memory"),
)
UNKNOWN = "–"

Facts = dict[str, Any]


def write(results: Results) -> None:
    """Replaces the figures of the page; its text, and the other benchmark's figures, stay."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{figures(results)}\n{END}{tail}", encoding="utf-8")


def figures(results: Results) -> str:
    """Returns all tables and pictures."""
    pictures = "\n".join(f"![{text}](../bench/results/{name}.png)" for text, name in PICTURES)
    parts = [
        _throughput(results),
        _latency(results),
        _costs(results),
        _checks(checks(results)),
        _pools(results),
        pictures,
        *_surroundings(results),
    ]
    return "\n\n".join(part for part in parts if part)


def verdict(found: Iterable[Check]) -> str:
    """Returns all targets for the terminal."""
    return "\n".join(
        f"  {'kept  ' if check.kept else 'MISSED'} {check.what}: {check.value:.4g} ({check.target})"
        for check in found
    )


def _throughput(results: Results) -> str:
    head = (
        "| Scenario | users | scans/s | ceiling | of it | by requests (at 2 calls) · tokens · users "
        "| calls · tokens a scan | provider s | success | 429 |"
    )
    return _table(head, [_throughput_row(*each) for each in results["scenarios"].items()])


def _throughput_row(name: str, facts: Facts) -> str:
    limits, slots = facts["limits"], facts["slots_ceiling"]
    own = f"; its slots allow {slots:.3f}" if slots and slots < facts["ceiling"] else ""
    return (
        f"| `{name}`: {facts['parameters']['title']} | {facts['parameters']['users']} "
        f"| {facts['scans_per_second']:.3f} | {facts['ceiling']:.3f}{own} | {facts['of_ceiling']:.1%} "
        f"| {limits['requests']:.2f} ({limits['requests_at_two_calls']:.2f}) · {limits['tokens']:.2f} "
        f"· {limits['users']:.2f} | {facts['calls_per_scan']:.3f} · {facts['tokens_per_scan']:,.0f} "
        f"| {facts['provider_seconds']:.2f} "
        f"| {facts['success'] or 0:.2%} of {facts['scans'] + facts['lost']} | {facts['rejected']} |"
    )


def _latency(results: Results) -> str:
    head = (
        "| Scenario | chain s, mean · p50 · p95 · p99 | the same from sending the photo, mean "
        "| provider s of the same scans | chain ÷ it | first event ms, p50 · p99 | first stage s, p50 · p99 |"
    )
    return _table(head, [_latency_row(*each) for each in results["scenarios"].items()])


def _latency_row(name: str, facts: Facts) -> str:
    chain, first, stage, paired = (
        facts["chain"],
        facts["first_event"],
        facts["first_stage"],
        facts["paired"],
    )
    return (
        f"| `{name}` | {' · '.join(_said(chain[key], 1) for key in ('mean', 'p50', 'p95', 'p99'))} "
        f"| {_said(facts['from_sending']['mean'], 2)} | {_said(paired['provider'], 2)} "
        f"| {_said(paired['ratio'], 4)} | {_ms(first['p50'])} · {_ms(first['p99'])} "
        f"| {_said(stage['p50'], 3)} · {_said(stage['p99'], 3)} |"
    )


def _costs(results: Results) -> str:
    head = (
        "| Scenario | CPU ms a scan: workers + front | broker | workers | PSS MB, most: workers · front "
        f"| calls in flight, mean | workers at {IN_FLIGHT} in flight, MB | broker connections | load before |"
    )
    return _table(head, [_costs_row(*each) for each in results["scenarios"].items()])


def _costs_row(name: str, facts: Facts) -> str:
    cpu, memory = facts["cpu_ms_per_scan"], facts["memory_mb"]
    load = facts["surroundings"]["machine"]["load_1_5_15_min"][0]
    return (
        f"| `{name}` | {cpu['worker']:.1f} + {cpu['front']:.1f} = {cpu['all']:.1f} | {cpu['broker']:.1f} "
        f"| {facts['processes']['worker']} | {memory['worker']['most']:.0f} · {memory['front']['most']:.0f} "
        f"| {facts['in_flight']:.0f} | {_memory_at(facts)} | {facts['connections']} | {load:.1f} |"
    )


def _memory_at(facts: Facts) -> str:
    """Returns the memory measured at that many calls in flight; computed for processes that hold one call
    each."""
    if facts["parameters"]["system"] == "prefork":
        slots, most = facts["parameters"]["slots"], facts["memory_mb"]["worker"]["most"]
        return f"{most / slots * IN_FLIGHT:,.0f} (computed: {most / slots:.1f} a process)"
    return _said(facts["memory_at_in_flight"]["most"], 0)


def _checks(found: list[Check]) -> str:
    head = "| Target | measured | | |"
    return _table(head, [_check_row(check) for check in found]) if found else ""


def _check_row(check: Check) -> str:
    return f"| {check.what} | {check.value:.4g} | {check.target} | {'kept' if check.kept else '**missed**'} |"


def _pools(results: Results) -> str:
    head = "| asyncio pool for Celery | versions | what happened |"
    rows = [
        f"| `{pool['name']}` | {pool['versions']} | {pool['verdict']} |"
        for pool in results.get("pools", {}).values()
    ]
    return _table(head, rows) if rows else ""


def _surroundings(results: Results) -> list[str]:
    """Returns the conditions, once for all scenarios that share them."""
    lines: dict[str, list[str]] = {}
    for name, facts in results["scenarios"].items():
        where, given = facts["surroundings"], facts["parameters"]
        machine, changed = where["machine"], where["changed_files"]
        versions = ", ".join(f"{key} {value}" for key, value in where["versions"].items())
        scaled = "" if given["scale"] == 1 else f", latencies × {given['scale']:g}"
        line = (
            f"commit {where['commit'][:10]}{f' with {changed} changed files' if changed else ''}; "
            f"{given['seconds']:.0f} s of load, {given['warm']:.0f} s not judged{scaled}; {versions}; "
            f"{machine['system']}, {machine['cores']} cores, {machine['memory_gb']} GB"
        )
        lines.setdefault(line, []).append(name)
    return [f"Measured ({', '.join(names)}): {line}." for line, names in lines.items()]


def _table(head: str, rows: list[str]) -> str:
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *rows])


def _said(value: float | None, digits: int) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def _ms(value: float | None) -> str:
    return UNKNOWN if value is None else f"{1000 * value:,.0f}"
