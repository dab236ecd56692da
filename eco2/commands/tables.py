"""What operators see: values of `eco2/operator` as tables and texts on a terminal, or as JSON."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.style import StyleType
from rich.table import Table

from eco2.event import Paused
from eco2.job import JSON
from eco2.journal.state import JobState
from eco2.operator.cost import Cost, total, usd
from eco2.operator.dead import DeadRow
from eco2.operator.jobs import JobRow, Sheet
from eco2.operator.plan import Plan, Refusal, sums
from eco2.operator.trace import retry_at
from eco2.terminal import one_line, visible

WIDE = 170
"""Columns where nobody looks at a terminal: rows stay whole, for grep."""


def console() -> Console:
    """Standard output. Nothing in it is markup: it shows what others wrote."""
    screen = Console(markup=False, highlight=False)
    return screen if screen.is_terminal else Console(markup=False, highlight=False, width=WIDE)


def as_json(value: object) -> None:
    print(visible(json.dumps(value, ensure_ascii=False, indent=2)))  # noqa: T201  # the command's output


def banner(paused: Paused) -> str:
    reason = f": {one_line(paused.reason)}" if paused.reason else ""
    return f"PAUSED since {_time(paused.ts)}{reason}. Workers take no more jobs; `eco2 resume` goes on."


def dead(rows: Sequence[DeadRow]) -> Table:
    table = _table("job", "pipeline", "why", "when", "got to", "paid")
    for row in rows:
        why = f"{row.code}: {row.message}" if row.code else row.message
        if row.replayed:
            why += f" (replayed as {row.replayed})"
        paid = usd(row.cost) if row.cost.calls else "–"
        table.add_row(row.job, row.pipeline, why, _time(row.when), row.stage or "–", paid)
    return table


def jobs(rows: Iterable[JobRow]) -> Table:
    table = _table("job", "pipeline", "status", "at", "accepted", "ended", "run", "paid")
    for row in rows:
        status = f"{row.status} {row.code}".rstrip()
        if row.put_off is not None:
            status = f"put off until {_clock(row.put_off)}"
        paid = usd(row.cost) if row.cost.calls else "–"
        times = _time(row.accepted), _time(row.ended)
        table.add_row(row.job, row.pipeline, status, row.stage, *times, str(row.attempt), paid)
    return table


def sheet(sheet: Sheet, out: Console) -> None:
    """One job, all of it."""
    state = sheet.state
    facts = {
        "job": state.job,
        "pipeline": state.pipeline or "the journal no longer says",
        "status": _status(state),
        "why": state.cause,
        "accepted": _time(state.accepted),
        "deadline": _time(state.deadline),
        "model": state.model or "the default",
        "owner": state.owner,
        "resumes": state.resumes or "",
        "replayed as": sheet.replayed or "",
        "lost its key to": state.by or "",
        "holder": sheet.holder,
        "retries": str(state.retries or ""),
        "crashes": str(state.crashes or ""),
        "paid": str(total(stage.cost for stage in sheet.stages)),
    }
    _facts(facts, out)
    if sheet.runs:
        table = _table("run", "worker", "began", "ended", "how it ended")
        for run in sheet.runs:
            alone = " (alone)" if run.alone else ""
            end = run.end or "at work"
            table.add_row(f"{run.number}{alone}", run.worker, _time(run.began), _time(run.ended), end)
        out.print()
        out.print(table)
    if sheet.stages:
        table = _table("stage", "status", "began", "seconds", "paid")
        for stage in sheet.stages:
            seconds = "–" if stage.seconds is None else f"{stage.seconds:.2f}"
            table.add_row(stage.name, stage.status, _time(stage.began), seconds, str(stage.cost))
        out.print()
        out.print(table)
    table = _table("event", "shown to clients", "seq", "at", "%")
    for shown in state.shown:
        what = f"{shown.stage} {shown.status}"
        table.add_row(str(shown.id), what, str(shown.seq), _time(shown.ts), str(shown.progress))
    out.print()
    out.print(table)


def letters(row: DeadRow, letters: Sequence[JSON], order: object, out: Console) -> None:
    """What the dead letters of one job say."""
    _facts(
        {
            "job": row.job,
            "pipeline": row.pipeline,
            "why": f"{row.code}: {row.message}" if row.code else row.message,
            "got to": row.stage,
            "replayed as": row.replayed or "",
            "letters": "; ".join(_letter(letter) for letter in letters),
        },
        out,
    )
    out.print(f"order     {visible(json.dumps(order, ensure_ascii=False, indent=2))}")


def plan(plan: Plan | Refusal) -> str:
    """What a replay would do, in a few lines."""
    if isinstance(plan, Refusal):
        return f"{plan.job}  not replayed: {plan.why}"
    old = plan.dead.id
    if plan.over:
        return f"{old}  was replayed as {plan.job.id}, which has ended: only its letters are dropped"
    if plan.announced:
        return f"{old}  was replayed as {plan.job.id}, which has not ended: it is ordered once more"
    kept = ", ".join(plan.outputs) or "nothing"
    lines = [f"{old}  keeps {kept}; runs {', '.join(plan.runs) or 'nothing'}"]
    lines += [f"    paid so far  {stage}: {cost}" for stage, cost in plan.paid.items()]
    lines += [f"    will cost    {stage}: {_expected(cost)}" for stage, cost in plan.runs.items()]
    return "\n".join(lines)


def bill(plans: Iterable[Plan]) -> str:
    """What was paid and what is expected, over all jobs."""
    fresh = [each for each in plans if not each.announced]
    paid = total(cost for each in fresh for cost in each.paid.values())
    parts = [sums(each.runs) for each in fresh]
    coming = total(cost for cost, _ in parts)
    unknown = sum(len(stages) for _, stages in parts)
    more = f", and {unknown} stages whose cost is not known" if unknown else ""
    jobs = "1 job" if len(fresh) == 1 else f"{len(fresh)} jobs"
    return f"{jobs}: paid so far {paid}; a replay will cost about {coming}{more}"


def _expected(cost: Cost | None) -> str:
    if cost is None:
        return "not known"
    return f"about {cost}" if cost.calls else str(cost)


def _status(state: JobState) -> str:
    if (until := retry_at(state)) is not None:
        return f"put off until {_clock(until)}"
    return f"{state.status}, its order went to the dead letters" if state.dead else state.status


def _letter(letter: JSON) -> str:
    return f"{letter['reason']} at {letter['queue']} ({letter['bytes']:,} bytes)"


def _facts(facts: dict[str, str], out: Console) -> None:
    width = max(len(name) for name, value in facts.items() if value) + 2
    for name, value in facts.items():
        if value:
            out.print(f"{name:<{width}}{one_line(value)}")


class _Table(Table):
    """A table of what others wrote."""

    def add_row(self, *cells: object, style: StyleType | None = None, end_section: bool = False) -> None:
        super().add_row(*map(one_line, cells), style=style, end_section=end_section)


def _table(first: str, *columns: str) -> Table:
    table = _Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _clock(ts: float) -> str:
    """The time of day, for what happens within minutes."""
    return datetime.fromtimestamp(ts, UTC).strftime("%H:%M:%SZ")


def _time(ts: float | None) -> str:
    return "–" if ts is None else datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
