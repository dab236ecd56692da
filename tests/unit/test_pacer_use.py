"""How much of a limit is used when more is asked for than there is, by simulation.

Run with `-s` to see the figures; those in docs/decisions/0012-exact-ledger.md are from here.
"""

import random
from collections.abc import Callable

import pytest

from eco2.pacer import MINUTE, SPAN, Counting, Limits
from tests.support.provider_windows import Load, fullest, simulate

START, END = 2 * MINUTE, 15 * MINUTE


def scans(dice: random.Random) -> tuple[float, float]:
    """Vision and answer in turn: what is reserved, and what is taken."""
    reserved = dice.choice([900.0, 1300.0])
    return reserved, reserved * dice.uniform(0.5, 1.0)


def usages(dice: random.Random) -> tuple[float, float]:
    return 2000.0, min(2000.0, max(100.0, dice.gauss(1000.0, 150.0)))


def inputs(dice: random.Random) -> tuple[float, float]:
    """An estimate that is up to 15 % too high."""
    reserved = dice.choice([900.0, 1300.0])
    return reserved, reserved * dice.uniform(0.85, 1.0)


Case = tuple[Limits, Counting, Callable[[random.Random], tuple[float, float]], float]

CASES: dict[str, Case] = {
    "requests, 300": (Limits(300.0, 1e7), "request", scans, 0.98),
    "requests, 500": (Limits(500.0, None), "request", scans, 0.98),
    "requests, 10,000": (Limits(10_000.0, None), "request", scans, 0.98),
    "tokens by request": (Limits(5000.0, 400_000.0), "request", scans, 0.98),
    "tokens by input": (Limits(5000.0, 300_000.0), "input", inputs, 0.98),
    "tokens by usage": (Limits(5000.0, 400_000.0), "usage", usages, 0.97),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [1, 2])
def test_nearly_all_of_the_binding_limit_is_used_and_no_more(case: str, seed: int) -> None:
    limits, counting, draw, wanted = CASES[case]
    dice = random.Random(0)
    mean = sum(draw(dice)[0 if counting == "request" else 1] for _ in range(1000)) / 1000
    calls = min(limits.requests or 1e9, (limits.tokens or 1e12) / mean)
    minutes = 4 if calls > 5000 else 15
    run = simulate(Load(1.2 * calls, draw), limits, counting, seed, minutes)
    shares, peaks = [], []
    for arrivals, limit in ((run.requests, limits.requests), (run.tokens, limits.tokens)):
        if limit is not None:
            shares.append(run.share(arrivals, limit, START, minutes * MINUTE))
            peaks.append(fullest(arrivals) / limit)
    print(f"{case}, seed {seed}: used {max(shares):.2%}, fullest minute {max(peaks):.2%}")
    assert max(shares) >= wanted
    assert max(peaks) <= 1.0 + 1e-9
    assert max(shares) <= MINUTE / SPAN + 0.005


def test_a_takeover_costs_about_a_second() -> None:
    limits, load = Limits(500.0), Load(600.0, scans)
    calm = simulate(load, limits, "request", 1)
    changed = simulate(load, limits, "request", 1, takeovers=(300.0, 301.0, 480.0))
    lost = [run.share(run.requests, 500.0, START, END) for run in (calm, changed)]
    seconds = (lost[0] - lost[1]) * (END - START) / 3
    print(f"a takeover costs {seconds:.2f} s of the budget, fullest {fullest(changed.requests)}")
    assert 0 < seconds < 3
    assert fullest(changed.requests) <= 500.0
