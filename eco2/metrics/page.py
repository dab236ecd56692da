"""docs/metrics.md: the table of all series, written from `series.py`. `make check` compares."""

from eco2.metrics.series import GROUPS, Series

HEAD = """\
# Metrics

Written by `make fix` from `eco2/metrics/series.py`, not by hand. Every process shows its series on `/metrics`
beside the usual `process_` ones (memory, CPU, open files). **From**: which processes show it; `leader` is the
one worker that is elected for it. What a histogram adds (`_bucket`, `_sum`, `_count`) is not listed. How to
use them: [observability.md](observability.md).
"""


def markdown() -> str:
    """The text of docs/metrics.md."""
    parts = [HEAD]
    for group, table in GROUPS.items():
        parts += [f"## {group}\n", "| Series | Type | Labels | From | Meaning |", "|---|---|---|---|---|"]
        parts += [*map(_row, table), ""]
    return "\n".join(parts).rstrip() + "\n"


def _row(series: Series) -> str:
    labels = ", ".join(f"`{label}`" for label in series.labels) or "–"
    return f"| `{series.shown_as}` | {series.kind} | {labels} | {series.by} | {series.help} |"
