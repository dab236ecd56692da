"""Prints the values of `eco2/operator` as tables and texts on a terminal, or as JSON."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import ceil

from rich.console import Console
from rich.style import StyleType
from rich.table import Table

from eco2.event import Paused
from eco2.job import JSON
from eco2.operator.cost import format_usd, total
from eco2.operator.dead_jobs import DeadRow
from eco2.operator.jobs import JobDetail, JobRow
from eco2.operator.replay_plan import NotReplayable, ReplayPlan, sum_costs
from eco2.terminal import one_line, visible

FILE_WIDTH = 170
"""Columns of output that is not a terminal: rows are not folded, so that grep finds them."""


def console() -> Console:
    """Returns standard output. Markup is off, since texts of clients and providers are shown."""
    screen = Console(markup=False, highlight=False)
    return screen if screen.is_terminal else Console(markup=False, highlight=False, width=FILE_WIDTH)


def print_json(value: object) -> None:
    """Prints the value as JSON."""
    print(visible(json.dumps(value, ensure_ascii=False, indent=2)))  # noqa: T201  # the command's output


def pause_banner(paused: Paused) -> str:
    """Returns the line that is shown above a list while the intake is paused."""
    reason = f": {one_line(paused.reason)}" if paused.reason else ""
    since = date_and_time(paused.ts)
    return f"PAUSED since {since}{reason}. Workers take no jobs; `eco2 resume` ends the pause."


def dead_table(rows: Sequence[DeadRow]) -> Table:
    """Returns the dead jobs as a table."""
    table = TextTable("job", "pipeline", "reason", "when", "last stage", "paid")
    for row in rows:
        reason = f"{row.code}: {row.message}" if row.code else row.message
        if row.replayed:
            reason += f" (replayed as {row.replayed})"
        paid = format_usd(row.cost) if row.cost.calls else "–"
        table.add_row(row.job, row.pipeline, reason, date_and_time(row.when), row.stage or "–", paid)
    return table


def job_table(rows: Iterable[JobRow]) -> Table:
    """Returns the jobs as a table."""
    table = TextTable("job", "pipeline", "status", "last stage", "accepted", "ended", "run", "paid")
    for row in rows:
        status = f"{row.status} {row.code}".rstrip()
        if row.put_off_until is not None:
            status = f"retry at {time_of_day(row.put_off_until)}"
        paid = format_usd(row.cost) if row.cost.calls else "–"
        times = date_and_time(row.accepted), date_and_time(row.ended)
        table.add_row(row.job, row.pipeline, status, row.stage, *times, str(row.attempt), paid)
    return table


def print_detail(detail: JobDetail, out: Console) -> None:
    """Prints one job in detail."""
    state = detail.state
    status = f"{state.status}, its order is a dead letter" if state.dead else state.status
    if state.retrying is not None:
        status = f"retry at {time_of_day(state.retrying.until)}"
    facts = {
        "job": state.job,
        "pipeline": state.pipeline or "not in the journal any more",
        "status": status,
        "reason": state.cause,
        "accepted": date_and_time(state.accepted),
        "max wait": f"{state.max_wait:g} s, {state.priority}",
        "timeout": f"{state.timeout:g} s",
        "max cost": "" if state.max_usd is None else f"{state.max_usd:g} USD",
        "started": date_and_time(state.started_at),
        "deadline": date_and_time(state.deadline),
        "model": state.model or "the default",
        "owner": state.owner,
        "resumes": state.resumes or "",
        "replayed as": detail.replayed or "",
        "superseded by": state.superseded_by or "",
        "holder": detail.holder,
        "retries": str(state.retries or ""),
        "crashes": str(state.crashes or ""),
        "paid": str(total(stage.cost for stage in detail.stages)),
    }
    print_facts(facts, out)
    if detail.runs:
        table = TextTable("run", "worker", "began", "ended", "end")
        for run in detail.runs:
            number, end = f"{run.attempt}{' (alone)' * run.alone}", run.end or "running"
            table.add_row(number, run.worker, date_and_time(run.began), date_and_time(run.ended), end)
        out.print()
        out.print(table)
    if detail.stages:
        table = TextTable("stage", "status", "began", "seconds", "paid")
        for stage in detail.stages:
            seconds = "–" if stage.seconds is None else f"{stage.seconds:.2f}"
            table.add_row(stage.stage, stage.status, date_and_time(stage.began), seconds, str(stage.cost))
        out.print()
        out.print(table)
    table = TextTable("event", "shown to clients", "seq", "at", "%")
    for shown in state.visible_events:
        what = f"{shown.stage} {shown.status}"
        table.add_row(str(shown.id), what, str(shown.seq), date_and_time(shown.ts), str(shown.progress))
    out.print()
    out.print(table)


def print_letters(row: DeadRow, letters: Sequence[JSON], order: object, out: Console) -> None:
    """Prints the dead letters of one job."""
    print_facts(
        {
            "job": row.job,
            "pipeline": row.pipeline,
            "reason": f"{row.code}: {row.message}" if row.code else row.message,
            "last stage": row.stage,
            "replayed as": row.replayed or "",
            "letters": "; ".join(
                f"{letter['reason']} at {letter['queue']} ({letter['bytes']:,} bytes)" for letter in letters
            ),
        },
        out,
    )
    out.print(f"order     {visible(json.dumps(order, ensure_ascii=False, indent=2))}")


def replay_lines(plan: ReplayPlan | NotReplayable) -> str:
    """Returns the plan of one replay, in a few lines."""
    if isinstance(plan, NotReplayable):
        return f"{plan.job}  not replayed: {plan.reason}"
    old = plan.dead.id
    if plan.ended:
        left = "only its letters are dropped" if plan.dead.letters else "nothing is left to do"
        return f"{old}  was replayed as {plan.job.id}, which has ended: {left}"
    if plan.announced:
        return f"{old}  was replayed as {plan.job.id}, which has not ended: its order is published again"
    kept = ", ".join(plan.outputs) or "nothing"
    lines = [f"{old}  keeps {kept}; runs {', '.join(plan.runs) or 'nothing'}"]
    lines += [f"    paid so far  {stage}: {cost}" for stage, cost in plan.paid.items()]
    for stage, cost in plan.runs.items():
        about = "about " if cost and cost.calls else ""
        lines.append(f"    will cost    {stage}: {about}{'not known' if cost is None else cost}")
    return "\n".join(lines)


def replay_cost(plans: Iterable[ReplayPlan], rpm: float, tpm: float) -> str:
    """Returns the paid and the expected cost of all replays, and their time at a budget per minute."""
    fresh = [each for each in plans if not each.announced]
    paid = total(cost for each in fresh for cost in each.paid.values())
    parts = [sum_costs(each.runs) for each in fresh]
    coming = total(cost for cost, _ in parts)
    unknown = sum(len(stages) for _, stages in parts)
    more = f", and {unknown} stages whose cost is not known" if unknown else ""
    jobs = "1 job" if len(fresh) == 1 else f"{len(fresh)} jobs"
    lines = [f"{jobs}: paid so far {paid}; a replay will cost about {coming}{more}"]
    again = total(cost for each in fresh for stage, cost in each.paid.items() if stage in each.runs)
    if again.calls:
        lines.append(f"    paid again: {again}, for stages that did not complete")
    minutes = max(coming.calls / rpm, (coming.input_tokens + coming.output_tokens) / tpm)
    time = "less than a minute" if minutes < 1 else f"about {ceil(minutes)} minutes"
    least = " for what is known" if unknown else ""
    lines.append(f"    at {rpm:,} requests and {tpm:,} tokens a minute, all of them free: {time}{least}")
    return "\n".join(lines)


def print_facts(facts: dict[str, str], out: Console) -> None:
    """Prints one line for each fact that has a value."""
    width = max(len(name) for name, value in facts.items() if value) + 2
    for name, value in facts.items():
        if value:
            out.print(f"{name:<{width}}{one_line(value)}")


class TextTable(Table):
    """A table whose cells show control characters instead of obeying them."""

    def __init__(self, first: str, *columns: str) -> None:
        super().__init__(box=None, pad_edge=False, header_style="bold")
        self.add_column(first, no_wrap=True)
        for column in columns:
            self.add_column(column, overflow="fold")

    def add_row(self, *cells: object, style: StyleType | None = None, end_section: bool = False) -> None:
        super().add_row(*map(one_line, cells), style=style, end_section=end_section)


def time_of_day(ts: float) -> str:
    """Returns the time of day."""
    return datetime.fromtimestamp(ts, UTC).strftime("%H:%M:%SZ")


def date_and_time(ts: float | None) -> str:
    """Returns the date and time in UTC; a dash for None."""
    return "–" if ts is None else datetime.fromtimestamp(ts, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
