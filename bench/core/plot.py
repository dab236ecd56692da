"""Draws one picture: jobs a second with their spread, and their CPU cost, by contender."""

from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.core.contender import CONTENDERS, Contender, Role
from bench.core.rounds import WORKERS
from bench.core.verdict import Row, by_round, spread

COLOURS: dict[Role, str] = {"eco2": "#1f6f5c", "bare": "#999999", "peer": "#b9986b", "stores": "#b3432b"}
INK, QUIET = "#333333", "#d5d5d5"
SIZE = (11.0, 4.6)


def draw(rows: list[Row], path: Path) -> None:
    """Draws the contenders, the fastest with one worker on top."""
    mpl.rcParams["font.size"] = 9
    figure = Figure(figsize=SIZE, layout="constrained")
    measured = [each for each in CONTENDERS if by_round(rows, each.name, WORKERS[0])]
    measured.sort(key=lambda each: median(by_round(rows, each.name, WORKERS[0]).values()))
    left, right = figure.subplots(1, 2, sharey=True)
    _rates(left, rows, measured)
    _costs(right, rows, measured)
    figure.savefig(path, dpi=110)


def _rates(axes: Axes, rows: list[Row], contenders: list[Contender]) -> None:
    for place, contender in enumerate(contenders):
        for workers, shift, height in ((2, -0.24, 0.2), (1, 0.12, 0.5)):
            rates = by_round(rows, contender.name, workers)
            if not rates:
                continue
            rate = spread(list(rates.values()))
            colour = COLOURS[contender.role]
            axes.barh(place + shift, rate.median, height, color=colour, alpha=1.0 if workers == 1 else 0.5)
            axes.plot([rate.least, rate.most], [place + shift] * 2, color=INK, linewidth=1.0)
    axes.set_yticks(range(len(contenders)), [each.name for each in contenders])
    axes.set_xlabel("jobs a second")
    axes.set_title("No-op jobs, 1 worker (below, pale: 2); lines: least to most", loc="left")


def _costs(axes: Axes, rows: list[Row], contenders: list[Contender]) -> None:
    for place, contender in enumerate(contenders):
        values: dict[str, Any] = {
            field: median(by_round(rows, contender.name, WORKERS[0], field=field).values())
            for field in ("cpu", "broker_cpu")
        }
        axes.barh(place, values["cpu"], 0.6, color=COLOURS[contender.role])
        axes.barh(place, values["broker_cpu"], 0.6, left=values["cpu"], color=QUIET)
    axes.set_xlabel("CPU-seconds per 1,000 jobs")
    axes.set_title("Their CPU, and the broker's (grey), 1 worker", loc="left")
