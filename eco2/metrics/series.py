"""Reads the table of all series of Eco², `series.toml`."""

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Literal

import msgspec

SeriesKind = Literal["counter", "gauge", "histogram"]
ShownBy = Literal["gateway", "worker", "each", "leader"]
"""The processes that show a series. `leader`: the one worker that is elected for the task."""


class Series(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One series. `name`: without the suffix `_total` of counters. `bounds`: of a histogram.

    `scraped`: not counted, but read from its source at each scrape.
    """

    name: str
    kind: SeriesKind
    by: ShownBy
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    scraped: bool = False

    @property
    def shown_as(self) -> str:
        """Returns the name in Prometheus."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


@cache
def groups() -> Mapping[str, tuple[Series, ...]]:
    """Reads the table once, by group."""
    table = tomllib.loads(files("eco2.metrics").joinpath("series.toml").read_text(encoding="utf-8"))
    bounds = {None: (), **table["bounds"]}
    return {
        group: tuple(
            msgspec.convert({**row, "name": name, "bounds": bounds[row.get("bounds")]}, Series)
            for name, row in rows.items()
        )
        for group, rows in table["groups"].items()
    }


@cache
def all_series() -> Mapping[str, Series]:
    """Returns all series by name."""
    return {series.name: series for group in groups().values() for series in group}
