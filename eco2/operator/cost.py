"""Costs of a job's calls so far, and the expected costs of those to come. Pure.

Figures are the `usage` that stages wrote. A cost in USD is by list price; None if a call has no known price.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from eco2.event import amount
from eco2.job import JSON
from eco2.journal.state import JobState

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, slots=True)
class Cost:
    """Calls of a model, their tokens, and USD by list price."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: Decimal | None = Decimal()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            None if self.usd is None or other.usd is None else self.usd + other.usd,
        )

    def __str__(self) -> str:
        if not self.calls:
            return "no calls"
        calls = "1 call" if self.calls == 1 else f"{self.calls} calls"
        return f"{calls}, {self.input_tokens:,} + {self.output_tokens:,} tokens, {format_usd(self)}"

    def document(self) -> JSON:
        """Returns the cost as JSON; `cost_usd` is exact, as text."""
        return {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": None if self.usd is None else f"{self.usd:f}",
        }


class _StageUsage(msgspec.Struct):
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: str | None = None


def format_usd(cost: Cost) -> str:
    """Returns the USD as text for people."""
    if cost.usd is None:
        return "price not known"
    return f"${cost.usd:.4f}" if cost.usd else "$0"


def document(row: "DataclassInstance") -> JSON:
    """Returns a row's fields as JSON."""
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    return {name: value.document() if isinstance(value, Cost) else value for name, value in values.items()}


def paid(state: JobState) -> dict[str, Cost]:
    """Returns the cost of each stage, including a failed one, whose usage only the end of the job carries."""
    end_usage = (state.result or {}).get("usage")
    usage = {**state.usage, **end_usage} if isinstance(end_usage, dict) else state.usage
    return {stage: stage_cost(used) for stage, used in usage.items()}


def total(costs: Iterable[Cost]) -> Cost:
    """Returns the sum."""
    return sum(costs, Cost())


def peers(jobs: Iterable[JobState], pipeline: str, model: str | None) -> list[JobState]:
    """Returns the jobs of the same pipeline and model that ran all their stages themselves."""
    return [job for job in jobs if job.pipeline == pipeline and job.model == model and job.resumes is None]


def expected(stage: str, others: Sequence[JobState], paid_before: Mapping[str, Cost]) -> Cost | None:
    """Returns the mean cost of the stage over `others`, else the job's own earlier cost; None if unknown."""
    costs = [
        stage_cost(job.usage[stage]) if stage in job.usage else Cost()
        for job in others
        if stage in job.outputs
    ]
    if not costs:
        return paid_before.get(stage)
    whole, count = total(costs), len(costs)
    return Cost(
        round(whole.calls / count),
        round(whole.input_tokens / count),
        round(whole.output_tokens / count),
        None if whole.usd is None else whole.usd / count,
    )


def stage_cost(usage: object) -> Cost:
    """Returns the cost of one stage by its usage in the journal; usage that cannot be read has no price."""
    try:
        used = msgspec.convert(usage, _StageUsage)
    except msgspec.ValidationError:
        return Cost(usd=None)
    return Cost(used.calls, used.input_tokens, used.output_tokens, amount(used.cost_usd))
