"""What a call costs: exact, by snapshot or family, and not known rather than guessed."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.call import Usage
from eco2.consumers.recorder import added, plain
from eco2.llm.prices import PRICES, price

tokens = st.integers(0, 10_000_000)


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        ("gpt-5.1", (1_000_000, 0, 0), "1.25"),
        ("gpt-5.1", (1_000_000, 1_000_000, 0), "0.125"),
        ("gpt-5.1", (0, 0, 1_000_000), "10"),
        ("gpt-5.1", (1500, 1024, 60), "0.001323"),
        ("gpt-5-nano", (1, 1, 0), "0.000000005"),
    ],
)
def test_a_cost_is_exact(model: str, usage: tuple[int, int, int], cost: str) -> None:
    known = price(model)
    assert known is not None
    assert known.cost(*usage) == Decimal(cost)


def test_a_snapshot_costs_what_its_model_costs_and_a_stranger_has_no_price() -> None:
    assert price("gpt-5.1-2025-11-13") is PRICES["gpt-5.1"]
    for stranger in ("gpt-5.1-chat-latest", "gpt-5", "gpt-5.6", "gpt-5.1-2025-11", "", "llama"):
        assert (price(stranger) is None) == (stranger not in PRICES)


def test_cached_input_is_cheaper_and_output_dearer() -> None:
    assert all(0 < one.cached < one.input < one.output for one in PRICES.values())


@given(st.lists(st.tuples(tokens, tokens, st.decimals("0.000000001", 1000, places=9)), min_size=1))
def test_a_stage_costs_the_sum_of_its_calls(calls: list[tuple[int, int, Decimal]]) -> None:
    usage = None
    for input_tokens, output_tokens, cost in calls:
        usage = added(usage, "m", Usage(input_tokens, 0, output_tokens, cost))
    assert usage is not None
    assert (usage["calls"], usage["input_tokens"]) == (len(calls), sum(call[0] for call in calls))
    assert Decimal(str(usage["cost_usd"])) == sum(call[2] for call in calls)


def test_one_call_without_a_price_makes_the_sum_unknown() -> None:
    priced, unpriced = Usage(1, 0, 1, Decimal(1)), Usage(1, 0, 1)
    for calls in ([priced, unpriced], [unpriced, priced]):
        usage = None
        for call in calls:
            usage = added(usage, "m", call)
        assert usage is not None
        assert (usage["calls"], usage["cost_usd"]) == (2, None)


@pytest.mark.parametrize(
    ("cost", "text"),
    [("0", "0"), ("0E-9", "0"), ("1E+2", "100"), ("0.0500", "0.05"), ("5E-9", "0.000000005")],
)
def test_a_cost_is_written_without_an_exponent(cost: str, text: str) -> None:
    assert plain(Decimal(cost)) == text
