"""What a call costs, by OpenAI's list prices, frozen here so that a number in a result can be explained.

Source: OpenAI's pricing page (developers.openai.com/api/docs/pricing), standard tier, text tokens; as quoted
by several public price lists between March and November 2026 that agree with each other. Checked: 2026-11-23.
A model that is not in the table has no cost rather than a guessed one; the same goes for models from
gpt-5.6 on, where writing to the prompt cache is charged apart. Docs: `docs/models.md`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from eco2.tokens.names import listed_name

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens: input that was not cached, input that was, output."""

    input: Decimal
    cached: Decimal
    output: Decimal

    def cost(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> Decimal:
        """USD, exact. `cached_tokens` are a part of `input_tokens`."""
        fresh = (input_tokens - cached_tokens) * self.input
        return (fresh + cached_tokens * self.cached + output_tokens * self.output) / _MILLION


def _price(input: str, cached: str, output: str) -> Price:
    return Price(Decimal(input), Decimal(cached), Decimal(output))


PRICES: Mapping[str, Price] = MappingProxyType(
    {
        "gpt-5.2": _price("1.75", "0.175", "14"),
        "gpt-5.1": _price("1.25", "0.125", "10"),
        "gpt-5": _price("1.25", "0.125", "10"),
        "gpt-5-mini": _price("0.25", "0.025", "2"),
        "gpt-5-nano": _price("0.05", "0.005", "0.4"),
        "gpt-4.1": _price("2", "0.5", "8"),
        "gpt-4.1-mini": _price("0.4", "0.1", "1.6"),
        "gpt-4.1-nano": _price("0.1", "0.025", "0.4"),
        "gpt-4o": _price("2.5", "1.25", "10"),
        "gpt-4o-mini": _price("0.15", "0.075", "0.6"),
    }
)
"""By the model's name without the date of a snapshot."""


def price(model: str) -> Price | None:
    """The price of `model` (`gpt-5.1`, `openai/gpt-5.1-2025-11-13`), or None if it is not known."""
    name = listed_name(model)
    return None if name is None else PRICES.get(name)
