"""Builds the dashboard as Grafana reads it (schema 39, Grafana 11 and later), from rows of panels. Pure.

Panels are placed in the order of their rows, left to right. The user chooses the Prometheus on the page, and
namespace, pipeline and provider, where "all" also means "no such label".
"""

import json
from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from bench.observe.panel import Panel, Query, Row

JSON = dict[str, object]
WIDTH = 24
SOURCE: JSON = {"type": "prometheus", "uid": "${datasource}"}


def document(rows: Sequence[Row]) -> str:
    """Returns the file's text."""
    whole: JSON = {
        "uid": "eco2",
        "title": "Eco²",
        "description": "Is it healthy? Is the budget used? Where does the time go? Then each part.",
        "tags": ["eco2"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": list(_panels(rows)),
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _variables() -> list[JSON]:
    source: JSON = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    return [
        source,
        _variable("namespace", "eco2_build_info"),
        _variable("pipeline", "eco2_jobs_backlog"),
        _variable("provider", "eco2_breaker_open"),
    ]


def _variable(label: str, series: str) -> JSON:
    query = f"label_values({series}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": label},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _panels(rows: Sequence[Row]) -> Iterator[JSON]:
    number, top = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": _place(0, top, WIDTH, 1),
            "panels": [],
        }
        top += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, top, height = 0, top + height, 0
            number += 1
            yield _panel(panel, number, _place(left, top, panel.width, panel.height))
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _place(x: int, y: int, width: int, height: int) -> JSON:
    return {"h": height, "w": width, "x": x, "y": y}


def _panel(panel: Panel, number: int, place: JSON) -> JSON:
    defaults: JSON = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in panel.steps],
        },
    }
    if panel.most is not None:
        defaults["max"] = panel.most
    if panel.show == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 40 if panel.stacked else 0,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "showPoints": "never",
        }
    return {
        "id": number,
        "type": panel.show,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "targets": [
            _target(query, name) for query, name in zip(panel.queries, ascii_uppercase, strict=False)
        ],
    }


def _options(panel: Panel) -> JSON:
    if panel.show == "stat":
        calculated: JSON = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": calculated, "colorMode": "background", "graphMode": "none"}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }


def _target(query: Query, name: str) -> JSON:
    return {
        "refId": name,
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "range": True,
    }
