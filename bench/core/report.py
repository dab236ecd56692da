"""Writes the core's part of docs/benchmarks.md from the JSON, and the summary for the terminal."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from bench.core.contender import CONTENDERS, Contender
from bench.core.rounds import WORKERS
from bench.core.trial import Figures, Trial
from bench.core.verdict import Check, Row, by_round, checks, spread
from bench.record import FOLDER, Results

PAGE = FOLDER.parent.parent / "docs" / "benchmarks.md"
RESULTS = FOLDER / "core.json"
PICTURE = FOLDER / "core.png"
BEGIN, END = "<!-- core -->", "<!-- end core -->"


def write(results: Results) -> None:
    """Replaces the figures of the page; its text, and the other benchmark's figures, stay."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    PAGE.write_text(f"{head}{BEGIN}\n{figures(results)}\n{END}{tail}", encoding="utf-8")


def figures(results: Results) -> str:
    """Returns all tables, and the picture."""
    rows: list[Row] = results["trials"]
    parts = [
        *(_idle(rows, workers) for workers in WORKERS),
        _sleeping(rows),
        _checks(checks(rows)),
        f"![Jobs a second and CPU of each contender](../bench/results/{PICTURE.name})",
        _surroundings(results["surroundings"], rows),
    ]
    return "\n\n".join(part for part in parts if part)


def line(trial: Trial, measured: Figures) -> str:
    """Returns one trial as a line for the terminal."""
    name = f"{trial.contender.name}, {trial.workers} × {'0.4 s' if trial.seconds else 'no-op'}"
    ideal = f", {measured.seconds / measured.ideal:.3f} × ideal" if measured.ideal else ""
    return (
        f"  {name:30} {measured.rate:7.0f} jobs/s  {measured.cpu:.3f} CPU-s per 1,000 "
        f"(broker {measured.broker_cpu:.3f})  {measured.memory:4.0f} MB  {measured.seconds:.2f} s{ideal}"
    )


def verdict(found: Iterable[Check]) -> str:
    """Returns all targets for the terminal."""
    return "\n".join(
        f"  {'kept  ' if check.kept else 'MISSED'} {_against(check)}: "
        f"{check.value:.3g}, {check.least:.3g} to {check.most:.3g} ({check.target})"
        for check in found
    )


def _idle(rows: Sequence[Row], workers: int) -> str:
    head = (
        f"| No-op, {workers} worker{'s' * (workers > 1)} | jobs/s: median (quartiles) | least – most "
        "| CPU-s per 1,000: workers · broker | MB |"
    )
    return _table(head, [_idle_row(rows, each, workers) for each in CONTENDERS])


def _idle_row(rows: Sequence[Row], contender: Contender, workers: int) -> str:
    rates = by_round(rows, contender.name, workers)
    if not rates:
        return ""
    rate = spread(list(rates.values()))
    cpu, broker, memory = (
        median(by_round(rows, contender.name, workers, field=field).values())
        for field in ("cpu", "broker_cpu", "memory")
    )
    return (
        f"| {contender.title} | **{rate.median:,.0f}** ({rate.low:,.0f} – {rate.high:,.0f}) "
        f"| {rate.least:,.0f} – {rate.most:,.0f} | {cpu:.3f} · {broker:.3f} | {memory:.0f} |"
    )


def _sleeping(rows: Sequence[Row]) -> str:
    head = (
        "| 0.4 s, 1 worker | slots | jobs | seconds: median, least – most | ÷ ideal | CPU-s per 1,000 | MB |"
    )
    return _table(head, [_sleeping_row(rows, each) for each in CONTENDERS])


def _sleeping_row(rows: Sequence[Row], contender: Contender) -> str:
    found = by_round(rows, contender.name, 1, True, "seconds")
    if not found:
        return ""
    seconds = spread(list(found.values()))
    ideal, jobs, cpu, memory = (
        median(by_round(rows, contender.name, 1, True, field).values())
        for field in ("ideal", "jobs", "cpu", "memory")
    )
    return (
        f"| {contender.title} | {contender.busy} | {jobs:,.0f} "
        f"| {seconds.median:.2f}, {seconds.least:.2f} – {seconds.most:.2f} | {seconds.median / ideal:.3f} "
        f"| {cpu:.3f} | {memory:.0f} |"
    )


def _checks(found: Sequence[Check]) -> str:
    head = "| Target | measured | least – most | wanted | |"
    return _table(
        head,
        [
            f"| {_against(check)} | {check.value:.2f} | {check.least:.2f} – {check.most:.2f} "
            f"| {check.target} | {'kept' if check.kept else '**missed**'} |"
            for check in found
        ],
    )


def _against(check: Check) -> str:
    return f"{check.what} ({check.against})" if check.against else check.what


def _table(head: str, rows: Iterable[str]) -> str:
    return "\n".join([head, "|---" * (head.count("|") - 1) + "|", *filter(None, rows)])


def _surroundings(where: dict[str, Any], rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{key} {value}" for key, value in where["versions"].items())
    machine, changed = where["machine"], where["changed_files"]
    return (
        f"Measured {where['date'][:10]} at commit {where['commit'][:10]}"
        f"{f' with {changed} changed files' if changed else ''}, {len(rows)} trials in "
        f"{where['minutes']:.0f} minutes; {versions}; {machine['system']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB."
    )
