"""What the calls of a job have cost, and what those to come are expected to, as pure functions.

Figures are the `usage` that stages wrote. A cost in USD is by list price; None where a call has none.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from eco2.event import amount
from eco2.job import JSON
from eco2.journal.state import JobState


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
        return f"{calls}, {self.input_tokens:,} + {self.output_tokens:,} tokens, {usd(self)}"

    def document(self) -> JSON:
        """As JSON; `cost_usd` is exact, as text."""
        return {
            "calls": self.calls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": None if self.usd is None else f"{self.usd:f}",
        }


class _Usage(msgspec.Struct):
    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: str | None = None


def usd(cost: Cost) -> str:
    """The sum for people."""
    if cost.usd is None:
        return "price not known"
    return f"${cost.usd:.4f}" if cost.usd else "$0"


def paid(state: JobState) -> dict[str, Cost]:
    """By stage, what the job has paid for: also the stage that failed, which only the end tells of."""
    told = (state.result or {}).get("usage")
    usage = {**state.usage, **told} if isinstance(told, dict) else state.usage
    return {stage: _cost(used) for stage, used in usage.items()}


def total(costs: Iterable[Cost]) -> Cost:
    return sum(costs, Cost())


def peers(jobs: Iterable[JobState], pipeline: str, model: str | None) -> list[JobState]:
    """The jobs that tell what a stage costs: those of the same pipeline and model that began at its start."""
    return [job for job in jobs if job.pipeline == pipeline and job.model == model and job.resumes is None]


def expected(stage: str, known: Sequence[JobState], paid_before: Mapping[str, Cost]) -> Cost | None:
    """The mean of the `known` jobs that completed the stage; else what the job itself paid for it before.

    None if nobody can tell.
    """
    costs = [
        _cost(job.usage[stage]) if stage in job.usage else Cost() for job in known if stage in job.outputs
    ]
    return _mean(costs) if costs else paid_before.get(stage)


def _mean(costs: Sequence[Cost]) -> Cost:
    whole, count = total(costs), len(costs)
    return Cost(
        round(whole.calls / count),
        round(whole.input_tokens / count),
        round(whole.output_tokens / count),
        None if whole.usd is None else whole.usd / count,
    )


def _cost(usage: object) -> Cost:
    """Of one stage, as it stands in the journal; what cannot be read has no known cost."""
    try:
        used = msgspec.convert(usage, _Usage)
    except msgspec.ValidationError:
        return Cost(usd=None)
    price = amount(used.cost_usd)
    return Cost(used.calls, used.input_tokens, used.output_tokens, price)
