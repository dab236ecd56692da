"""Draws one picture per case: calls a second, and the sliding minute against its limit."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLUMNS = 2
INK, QUIET, ALARM = "#1f6f5c", "#b9c6c2", "#b3432b"


def draw(results: dict[str, Any], path: Path) -> None:
    """Draws all measured cases, in their order."""
    cases: dict[str, Any] = results["cases"]
    mpl.rcParams["font.size"] = 8
    rows = -(-len(cases) // COLUMNS) or 1
    figure = Figure(figsize=(12, 2.6 * rows), layout="constrained")
    for place, (name, case) in enumerate(cases.items(), start=1):
        _case(figure.add_subplot(rows, COLUMNS, place), name, case)
    figure.savefig(path, dpi=110)


def _case(axes: Axes, name: str, case: dict[str, Any]) -> None:
    binding, given = case["parameters"]["binding"], case["parameters"]
    limit = given["rpm"] if binding == "requests" else given["tpm"]
    calls, window = case["per_second"]["requests"], case["sliding"][binding]
    axes.bar(range(len(calls)), calls, width=1.0, color=QUIET)
    axes.set_ylabel("calls a second")
    axes.set_ylim(0, 2.2 * max([*calls, 1]))
    axes.set_title(f"{name}: {given['title']}", loc="left")
    minute = axes.twinx()
    minute.plot(range(1, len(window) + 1), [held / limit for held in window], color=INK)
    minute.axhline(1.0, color=ALARM, linewidth=0.8)
    minute.axvline(given["warm_seconds"], color=INK, linewidth=0.8, linestyle=":")
    minute.set_ylim(0, 1.1)
    minute.set_ylabel(f"sliding minute ÷ {limit:,} {binding}")
    for incident in case["incidents"]:
        minute.axvline(incident["at"], ymax=0.06, color=ALARM, linewidth=1.2)
