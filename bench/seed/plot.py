"""Draws three pictures: throughput against the ceiling, durations of scans, memory against calls in
flight."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.record import Results
from bench.seed.scenario import IN_FLIGHT, WARM

COLOURS = {
    "prefork-9": "#b9986b",
    "prefork-24": "#8a6d3b",
    "gevent-100": "#b3432b",
    "gevent-live": "#e08a75",
    "eco2-100": "#1f6f5c",
    "eco2-150": "#4fb39a",
}
INK, QUIET = "#333333", "#999999"
SIZE = (8.0, 4.2)


def draw(results: Results, folder: Path) -> list[Path]:
    """Draws the scenarios that were run."""
    mpl.rcParams["font.size"] = 9
    scenarios: dict[str, Any] = results["scenarios"]
    pictures = {"seed-throughput": _throughput, "seed-latency": _latency, "seed-memory": _memory}
    paths = []
    for name, paint in pictures.items():
        figure = Figure(figsize=SIZE, layout="constrained")
        paint(figure.add_subplot(), scenarios)
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=110)
    return paths


def _throughput(axes: Axes, scenarios: dict[str, Any]) -> None:
    for place, (name, facts) in enumerate(scenarios.items()):
        axes.bar(place, facts["scans_per_second"], color=COLOURS[name])
        axes.hlines(facts["ceiling"], place - 0.45, place + 0.45, color=INK, linewidth=1.5)
        text = f"{facts['scans_per_second']:.2f}\n{facts['of_ceiling']:.1%}"
        axes.annotate(text, (place, facts["scans_per_second"]), ha="center", va="bottom", xytext=(0, 3),
                      textcoords="offset points")  # fmt: skip
    axes.set_xticks(range(len(scenarios)), list(scenarios))
    axes.set_ylim(0, 1.25 * max(facts["ceiling"] for facts in scenarios.values()))
    axes.set_ylabel("scans a second")
    axes.set_title("Scans a second; the line is the ceiling of the scenario", loc="left")


def _latency(axes: Axes, scenarios: dict[str, Any]) -> None:
    for name, facts in scenarios.items():
        seconds = facts["chain"]["quantiles"]
        shares = [place / (len(seconds) - 1) for place in range(len(seconds))] if len(seconds) > 1 else []
        axes.plot(seconds[: len(shares)], shares, color=COLOURS[name], label=name)
    axes.set_xscale("log")
    axes.set_xticks([5, 10, 20, 30, 60, 120, 300, 600], ["5", "10", "20", "30", "60", "120", "300", "600"])
    axes.set_xlabel("seconds from acceptance to done")
    axes.set_ylabel("share of the scans")
    axes.legend(frameon=False)
    axes.set_title("How long a scan takes", loc="left")


def _memory(axes: Axes, scenarios: dict[str, Any]) -> None:
    for name, facts in scenarios.items():
        samples = [row for row in facts["samples"] if row[0] > WARM / 4]
        axes.scatter(
            [row[1] for row in samples],
            [row[2] for row in samples],
            s=9,
            color=COLOURS[name],
            label=name,
        )
        if facts["parameters"]["system"] == "prefork":
            _extended(axes, name, facts)
    axes.set_yscale("log")
    axes.set_yticks([50, 100, 200, 500, 1000, 2000], ["50", "100", "200", "500", "1,000", "2,000"])
    axes.set_xlabel("calls in flight at the provider")
    axes.set_ylabel("MB (PSS) of all worker processes")
    axes.legend(frameon=False)
    axes.set_title("Memory of the workers (dashed: with a process for each call in flight)", loc="left")


def _extended(axes: Axes, name: str, facts: dict[str, Any]) -> None:
    """Computes the memory of that many more processes."""
    slots, most = facts["parameters"]["slots"], facts["memory_mb"]["worker"]["most"]
    places = range(slots, IN_FLIGHT + 1)
    axes.plot(places, [most / slots * place for place in places], color=COLOURS[name], linestyle="--")
