"""Which call a fault strikes."""

import msgspec
import pytest

from eco2.fake.faults import Fault, FaultPlan


def struck(fault: Fault, calls: int = 10, kind: str = "answer") -> list[int]:
    plan = FaultPlan((fault,), seed=0, now=0.0)
    return [n for n in range(1, calls + 1) if plan.choose(kind, f"job {n}", float(n)) is not None]


@pytest.mark.parametrize(
    ("fault", "calls"),
    [
        (Fault(action="cut"), list(range(1, 11))),
        (Fault(action="cut", every=3), [3, 6, 9]),
        (Fault(action="cut", first=2), [1, 2]),
        (Fault(action="cut", first=7, every=3), [3, 6]),
        (Fault(action="cut", seconds=4.0), [1, 2, 3]),
        (Fault(action="cut", job="job 5"), [5]),
        (Fault(action="cut", kind="vision"), []),
        (Fault(action="cut", kind="answer", first=1), [1]),
        (Fault(action="cut", probability=0.0), []),
        (Fault(action="cut", probability=1.0), list(range(1, 11))),
    ],
)
def test_a_fault_strikes_the_calls_that_it_names(fault: Fault, calls: list[int]) -> None:
    assert struck(fault) == calls


def test_a_probability_is_a_share_and_repeats() -> None:
    fault = Fault(action="status", probability=0.2)
    first = struck(fault, calls=5000)
    assert 0.18 < len(first) / 5000 < 0.22
    assert first == struck(fault, calls=5000)


def test_calls_of_another_kind_do_not_count() -> None:
    plan = FaultPlan((Fault(action="cut", kind="vision", first=1),), seed=0, now=0.0)
    assert plan.choose("answer", "a", 0.0) is None
    assert plan.choose("vision", "a", 0.0) is not None
    assert plan.choose("vision", "b", 0.0) is None


def test_the_first_fault_that_applies_wins_and_the_others_still_count() -> None:
    plan = FaultPlan((Fault(action="cut", first=1), Fault(action="stall", every=2)), seed=0, now=0.0)
    chosen = [plan.choose("answer", "a", 0.0) for _ in range(4)]
    assert [fault.action if fault else None for fault in chosen] == ["cut", "stall", None, "stall"]


@pytest.mark.parametrize(
    ("fault", "pieces"),
    [
        (Fault(action="cut"), 20),
        (Fault(action="disconnect"), 20),
        (Fault(action="stall"), 0),
        (Fault(action="stall", after_chunks=3), 3),
        (Fault(action="cut", after_chunks=99), 40),
    ],
)
def test_how_much_of_a_stream_is_sent_first(fault: Fault, pieces: int) -> None:
    assert fault.pieces(40) == pieces


@pytest.mark.parametrize(
    "fields",
    [{"status": 200}, {"probability": 1.1}, {"every": 0}, {"first": 0}, {"after_chunks": -1}, {"x": 1}],
)
def test_a_senseless_fault_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"action": "cut"} | fields, Fault)
