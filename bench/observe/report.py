"""Formats the outcome as a table for people, and as the block of figures in docs/observability.md. Pure."""

import re
import time
from collections.abc import Sequence

from bench.observe.findings import EXCEPTIONS, Found
from bench.observe.run import Life, Outcome

BEGIN, END = "<!-- make observe -->", "<!-- end -->"


def table(outcome: Outcome) -> str:
    """Returns every question with its result, then every alert, then every histogram."""
    lines = [
        f"{'-' if found.missing else '✓'}  {found.values:6}  {found.most:12.6g}  {found.question.where}  "
        f"{found.question.expr[:90]}"
        for found in outcome.found
    ]
    lines += ["", *(f"{name:<28} {_life(life)}" for name, life in sorted(outcome.lives.items()))]
    lines += [
        "",
        *(
            f"{fit.name:<28} {fit.count:8.0f} observed  {fit.below_first:6.1%} in the first bucket  "
            f"{fit.beyond_last:6.1%} beyond the last  {fit.bounds_used} buckets used"
            for fit in outcome.fits
        ),
    ]
    return "\n".join(lines)


def _life(life: Life) -> str:
    return " → ".join(f"{state} {at:.0f} s" for at, state in life.states)


def page(text: str, outcome: Outcome, seconds: float) -> str:
    """Returns `text` with a new block between its marks."""
    return re.sub(
        rf"{BEGIN}.*{END}",
        lambda _: f"{BEGIN}\n{block(outcome, seconds)}\n{END}",
        text,
        flags=re.DOTALL,
    )


def block(outcome: Outcome, seconds: float) -> str:
    panels = [found for found in outcome.found if found.question.where.startswith("panel")]
    alerts = [found for found in outcome.found if found.question.where.startswith("alert")]
    fired = sorted(name for name, life in outcome.lives.items() if life.fired)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"Last run: {date}, {seconds / 60:.1f} min, {outcome.jobs} scans. Of {len(panels)} queries of panels",
        f"{_with_data(panels)} had data, of {len(alerts)} operands of alerts {_with_data(alerts)};",
        f"{len(EXCEPTIONS)} stated exceptions. The longest page had {outcome.series} series in"
        f" {outcome.bytes / 1000:.0f} kB.",
        "",
        "| Alert that fired | What it did (seconds of the run) |",
        "|---|---|",
        *(f"| `{name}` | {_life(outcome.lives[name])} |" for name in fired),
        "",
        "| Histogram | Observed | In the first bucket | Beyond the last | Buckets used |",
        "|---|---|---|---|---|",
        *(
            f"| `{fit.name}` | {fit.count:.0f} | {fit.below_first:.1%} | {fit.beyond_last:.1%} "
            f"| {fit.bounds_used} |"
            for fit in outcome.fits
        ),
    ]
    return "\n".join(lines)


def _with_data(found: Sequence[Found]) -> int:
    return sum(bool(each.values) for each in found)
