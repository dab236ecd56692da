"""The results of a run as a table for people, as Markdown for docs/reliability.md, and as JSON. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tests.fault.fault import Fault
from tests.fault.verdict import Verdict

COLUMNS = (
    "fault",
    "accepted",
    "done",
    "failed",
    "lost",
    "events missing or doubled",
    "paid beyond the promise",
    "paid again, as promised",
    "recovered (s)",
    "run (s)",
)


_COLUMNS_SAY = (
    "- **accepted**: jobs that a client got an id for. **done**, **failed**: how they ended, by the",
    "  journal, which the suite reads by a consumer of its own. **lost**: accepted, and no end.",
    "- **events missing or doubled**: over all clients: those that stayed, those that came back to",
    "  another gateway with `Last-Event-ID`, and one that came late for each job at each gateway.",
    "- **paid**: the provider began to answer with 200. One call of each kind is the job's own. One more",
    "  goes with each answer that the provider broke, and one with each death or freeze of a worker that",
    "  held the job: those are **paid again, as promised**. The rest is **beyond the promise**.",
    "- **recovered**: seconds from the end of the fault (of `kill -9` and `SIGSTOP`: from the signal)",
    "  until the last of the jobs that it touched had its next event in the journal (`gateway-kill9`:",
    "  until the last client was served again). Touched are the jobs that the worker held, else all that",
    "  had not ended. The time that a job waits for its model is in it.",
    "- Every run also checks that no process had more connections to the broker than 2 (gateway) or 3",
    "  (worker), that the work queues are empty at the end, that every drain ends with exit code 0, and",
    "  that each gateway has each result.",
)


@dataclass(frozen=True, slots=True)
class Result:
    """One fault's verdict, or why there is none. `seconds`: how long it took in all."""

    fault: Fault
    verdict: Verdict | None
    seconds: float
    problem: str = ""

    @property
    def kept(self) -> bool:
        return self.verdict is not None and not self.verdict.breaches and not self.problem

    @property
    def complaints(self) -> tuple[str, ...]:
        breaches = self.verdict.breaches if self.verdict else ()
        return (*breaches, self.problem) if self.problem else breaches


def row(result: Result) -> tuple[str, ...]:
    """The cells of one line."""
    name = result.fault.name if result.kept else f"{result.fault.name} ✗"
    verdict = result.verdict
    if verdict is None:
        return (name, *("–" for _ in COLUMNS[1:-1]), f"{result.seconds:.0f}")
    recovered = "–" if verdict.recovered is None else f"{verdict.recovered:.1f}"
    counts = (
        verdict.accepted,
        verdict.done,
        verdict.failed,
        verdict.lost,
        verdict.seen_wrong,
        verdict.overpaid,
        verdict.repeated,
    )
    return (name, *(str(count) for count in counts), recovered, f"{result.seconds:.0f}")


def table(results: Sequence[Result]) -> str:
    """For a terminal: columns of equal width, then what was not kept."""
    rows = [COLUMNS, *map(row, results)]
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) for cells in rows
    ]
    complaints = [f"✗ {result.fault.name}: {what}" for result in results for what in result.complaints]
    return "\n".join([*(line.rstrip() for line in lines), *complaints])


def as_json(results: Sequence[Result], about: Mapping[str, str]) -> str:
    """Everything, for programs."""
    entries = [
        {
            "fault": result.fault.name,
            "kept": result.kept,
            "seconds": round(result.seconds, 1),
            "verdict": asdict(result.verdict) if result.verdict else None,
            "problem": result.problem,
        }
        for result in results
    ]
    return json.dumps({"about": dict(about), "results": entries}, indent=2, ensure_ascii=False) + "\n"


def markdown(results: Sequence[Result], about: Mapping[str, str]) -> str:
    """docs/reliability.md."""
    head = f"| {' | '.join(COLUMNS)} |"
    kept = sum(result.kept for result in results)
    return "\n".join(
        [
            "# Reliability",
            "",
            "Written by `make fault` after a run of every fault below, not by hand. Real processes, a real",
            "RabbitMQ, a provider that logs every call. The rules of judgement: `tests/fault/verdict.py`.",
            "",
            *(f"- {name}: {value}" for name, value in about.items()),
            f"- Kept: {kept} of {len(results)}",
            "",
            head,
            f"|{'---|' * len(COLUMNS)}",
            *(f"| {' | '.join(row(result))} |" for result in results),
            "",
            "## Columns",
            "",
            *_COLUMNS_SAY,
            "",
            "## Faults",
            "",
            *(f"- `{result.fault.name}`: {result.fault.how}" for result in results),
            *_broken(results),
            "",
        ]
    )


def _broken(results: Sequence[Result]) -> list[str]:
    complaints = [f"- `{result.fault.name}`: {what}" for result in results for what in result.complaints]
    return ["", "## Not kept", "", *complaints] if complaints else []
