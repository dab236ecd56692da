"""Dashboard, alerts and runbooks agree with each other and with the series that there are."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.observe.alerts import FILE as ALERTS_FILE
from bench.observe.alerts import Alert, alerts, hurried
from bench.observe.dashboard import FILE, ROWS, text
from bench.observe.findings import Fit, Found, Question, operands
from bench.observe.report import BEGIN, END, page
from bench.observe.run import EXPECTED, Life, Outcome, complaints
from eco2.metrics.series import Series, all_series

ROOT = Path(__file__).parents[3]
ALERTS = alerts(ALERTS_FILE.read_text())
PANELS = [panel for row in ROWS for panel in row.panels]
QUERIES = [query.expr for panel in PANELS for query in panel.queries]
SELECTED = re.compile(r"(eco2_\w+)(?:\{([^}]*)\})?")
PROMETHEUS_OWN = {"namespace", "job", "instance", "le"}


def series_of(name: str) -> Series | None:
    """The row of the table that a name in a query belongs to."""
    for series in all_series().values():
        parts = ("_bucket", "_sum", "_count") if series.kind == "histogram" else ("",)
        if name in {series.shown_as + part for part in parts}:
            return series
    return None


def selections(expr: str) -> Iterator[tuple[str, list[str]]]:
    """Names of series in the query, each with the labels that it is selected by."""
    for name, labels in SELECTED.findall(expr):
        yield name, re.findall(r"(\w+)(?:=~|!=|!~|=)", labels)


@pytest.mark.parametrize("expr", [*QUERIES, *(alert.expr for alert in ALERTS)])
def test_queries_ask_for_series_and_labels_that_there_are(expr: str) -> None:
    found = list(selections(expr))
    assert found or re.search(r"\bup\b|ALERTS", expr)
    for name, labels in found:
        series = series_of(name)
        assert series is not None, name
        assert set(labels) <= {*series.labels, *PROMETHEUS_OWN}


def test_every_series_has_its_place_on_the_dashboard() -> None:
    shown = {series_of(name) for expr in QUERIES for name, _ in selections(expr)}
    assert [name for name, series in all_series().items() if series not in shown] == []


def test_what_every_process_shows_whole_is_never_summed_over_processes() -> None:
    whole = [series.shown_as for series in all_series().values() if "not sum()" in series.help]
    assert len(whole) >= 4
    for expr in [*QUERIES, *(alert.expr for alert in ALERTS)]:
        for name in whole:
            assert not re.search(rf"sum(?: by \([^)]*\))? \({name}|sum\({name}", expr)


def test_the_file_is_what_the_module_says() -> None:
    assert FILE.read_text() == text(), "run `make fix`"


def test_panels_are_described_and_do_not_overlap() -> None:
    document: dict[str, Any] = json.loads(text())
    seen: set[tuple[int, int]] = set()
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    for panel in document["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & seen
        assert max(x for x, _ in cells) < 24
        seen |= cells
        assert panel["type"] == "row" or (panel["description"].endswith(".") and panel["targets"])


def test_titles_of_panels_are_told_apart() -> None:
    titles = [panel.title for panel in PANELS]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(alert: Alert) -> None:
    assert alert.severity in ("page", "ticket")
    assert set(alert.notes) == {"summary", "description", "runbook_url"}
    assert alert.notes["runbook_url"] == f"docs/runbooks.md#{alert.name.lower()}"
    (section,) = re.findall(rf"^## {alert.name}\n\n(\w+)\. ", runbooks(), re.MULTILINE)
    assert section == alert.severity


def test_every_runbook_is_of_an_alert_and_in_the_same_order() -> None:
    assert re.findall(r"^## (\w+)$", runbooks(), re.MULTILINE) == [alert.name for alert in ALERTS]


def test_panels_named_in_the_runbooks_exist() -> None:
    named = re.findall(r'"([^"]+)"', re.sub(r"`[^`]*`", "", runbooks()).replace("\n  ", " "))
    said_in_logs = {
        "the provider is down",
        "connection lost",
        "released",
        "…",
        "retry at 12:32:35Z",
        "holder",
        "flagged",
        "the model is not available at present",
        "the model … does not take …",
        "stage … of pipeline … blocked the event loop",
    }
    titles = {panel.title for panel in PANELS} | {row.title for row in ROWS}
    assert [name for name in named if name.rstrip(",.") not in titles | said_in_logs] == []


def test_hurried_rules_differ_in_their_times_alone() -> None:
    given = ALERTS_FILE.read_text()
    quick = hurried(given, "2s", "15s")
    assert {line.strip() for line in quick.splitlines() if line.strip().startswith("for:")} == {"for: 2s"}
    assert not re.search(r"\[\d+m\]", quick)
    assert re.sub(r"for: \w+|\[\w+\]", "", quick) == re.sub(r"for: \w+|\[\w+\]", "", given)


def runbooks() -> str:
    return (ROOT / "docs/runbooks.md").read_text()


# --- what the run makes of answers


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        ("max(a) > 60", ["max(a)"]),
        ("a / b > 0.05", ["a / b"]),
        ("max(a) > 0 unless on (x, y) sum(b) > 0", ["max(a)", "sum(b)"]),
        ("a > 0.95 and on (x) b > 0", ["a", "b"]),
        ("a > 5 or b > 5", ["a", "b"]),
        ('absent(a{role=~"x|y"})', ['a{role=~"x|y"}']),
        ("up == 0", ["up"]),
    ],
)
def test_what_an_alert_compares_is_asked_for_by_itself(expr: str, expected: list[str]) -> None:
    assert operands(expr) == expected


def test_every_alert_is_tested_with_its_real_times() -> None:
    tests = (ROOT / "bench/observe/alerts.test.yaml").read_text()
    looks = re.findall(r'alertname="(\w+)",alertstate="firing".*\n.*\n.*value: (\d)', tests)
    for alert in ALERTS:
        assert {value for name, value in looks if name == alert.name} == {"0", "1"}, alert.name


def test_an_outcome_complains_of_what_is_missing() -> None:
    quiet, came = Life([(0.0, "inactive")]), Life([(0.0, "pending"), (3.0, "firing"), (9.0, "inactive")])
    stays = Life([(0.0, "firing")])
    question = Question("panel: x", "sum(x)")
    good = Outcome(
        [Found(question, 3, 1.0)], dict.fromkeys(EXPECTED, came), [Fit("h", 10, 0.5, 0.0, 4)], 1, 1, 1
    )
    assert complaints(good) == []
    assert complaints(replace(good, found=[Found(question, 0, 0.0)])) == ["panel: x: no data for sum(x)"]
    assert len(complaints(replace(good, lives=dict.fromkeys(EXPECTED, quiet)))) == len(EXPECTED) + 1
    assert len(complaints(replace(good, lives=dict.fromkeys(EXPECTED, stays)))) == len(EXPECTED) + 1
    assert len(complaints(replace(good, fits=[Fit("h", 10, 0.5, 0.03, 4)]))) == 1


def test_the_block_of_figures_is_written_between_its_marks() -> None:
    life = Life([(0.0, "pending"), (3.0, "firing"), (9.0, "inactive")])
    found = [Found(Question("panel: x", "x"), 3, 1.0), Found(Question("alert: y", "y"), 0, 0.0)]
    outcome = Outcome(found, {"A": life}, [Fit("h", 10, 0.5, 0.0, 4)], 7, 200, 30_000)
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    new = page(text, outcome, 90.0)
    assert new.startswith(f"before\n{BEGIN}\nLast run: ")
    assert new.endswith(f"{END}\nafter\n")
    assert "old" not in new
    assert "`A` | pending 0 s → firing 3 s → inactive 9 s |" in new
    assert "| `h` | 10 | 50.0% | 0.0% | 4 |" in new
    assert BEGIN in (ROOT / "docs/observability.md").read_text()
