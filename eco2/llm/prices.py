"""Prices of model calls: OpenAI's list prices, fixed here so that a cost in a result can be explained.

Source: OpenAI's pricing page (developers.openai.com/api/docs/pricing), standard tier, text tokens; as quoted
by several public price lists between March and November 2026 that agree with each other. Checked: 2026-11-23.
A model that is not in the table has no cost rather than a guessed one; so have models from gpt-5.6 on, which
charge separately for writes to the prompt cache. Docs: `docs/models.md`.
"""

from collections.abc import Mapping
from decimal import Decimal

from eco2.call import Price
from eco2.tokens.names import listed_name

PRICES: Mapping[str, Price] = {
    model: Price(*map(Decimal, usd))
    for model, usd in {
        "gpt-5.2": ("1.75", "0.175", "14"),
        "gpt-5.1": ("1.25", "0.125", "10"),
        "gpt-5": ("1.25", "0.125", "10"),
        "gpt-5-mini": ("0.25", "0.025", "2"),
        "gpt-5-nano": ("0.05", "0.005", "0.4"),
        "gpt-4.1": ("2", "0.5", "8"),
        "gpt-4.1-mini": ("0.4", "0.1", "1.6"),
        "gpt-4.1-nano": ("0.1", "0.025", "0.4"),
        "gpt-4o": ("2.5", "1.25", "10"),
        "gpt-4o-mini": ("0.15", "0.075", "0.6"),
    }.items()
}
"""By the model's name, without the date of a snapshot."""

EMBEDDINGS: Mapping[str, Price] = {
    model: Price(Decimal(usd), Decimal(usd), Decimal(0))
    for model, usd in {"text-embedding-3-small": "0.02", "text-embedding-3-large": "0.13"}.items()
}
"""The same for models that embed texts; they have no output and no cache."""


def price(model: str) -> Price | None:
    """Returns the price of `model` (`gpt-5.1`, `openai/gpt-5.1-2025-11-13`), or None if it is not known."""
    name = listed_name(model)
    return None if name is None else PRICES.get(name, EMBEDDINGS.get(name))
