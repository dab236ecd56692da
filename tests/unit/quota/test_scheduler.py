"""Whose call is granted next."""

from collections import Counter

import pytest

from eco2.event import CallRequested
from eco2.job import Priority
from eco2.quota.member import by_rank
from eco2.quota.scheduler import Request, Scheduler


def request(
    name: str,
    priority: Priority = "interactive",
    owner: str = "",
    *,
    age: float = 0.0,
    max_wait: float = 100.0,
    offset: int = 0,
    started: bool = False,
) -> Request:
    call = CallRequested(
        budget="b",
        id=name,
        job=f"job {name}",
        run="1",
        kind="vision",
        tokens=1.0,
        priority=priority,
        owner=owner,
        age=age,
        max_wait=max_wait,
        offset=offset,
        started=started,
    )
    return Request(call, "w", since=0.0)


def order(*waiting: Request, now: float = 0.0, seconds: float = 1.0) -> list[str]:
    """The ids in the order of grants, all at one moment."""
    scheduler, left = Scheduler(), list(waiting)
    granted = []
    while (request := scheduler.first(left, by_rank, now)) is not None:
        left.remove(request)
        scheduler.granted(request, seconds, now)
        granted.append(request.call.id)
    return granted


def test_batch_calls_come_behind_all_interactive_ones() -> None:
    batch = request("batch", "batch", offset=1, started=True)
    assert order(batch, request("late", offset=9), request("soon", offset=5)) == ["soon", "late", "batch"]


def test_of_one_owner_started_jobs_go_first_and_then_the_oldest() -> None:
    waiting = request("a", offset=1), request("b", offset=2), request("c", offset=3, started=True)
    assert order(*waiting) == ["c", "a", "b"]


@pytest.mark.parametrize("priority", ["interactive", "batch"])
def test_owners_take_turns_however_many_calls_each_has(priority: Priority) -> None:
    many = [request(f"a{n}", priority, "a", offset=n, started=True) for n in range(100)]
    few = [request(f"b{n}", priority, "b", offset=100 + n) for n in range(3)]
    names = order(*many, *few)
    assert names[:7] == ["a0", "b0", "a1", "b1", "a2", "b2", "a3"]
    assert Counter(name[0] for name in names) == {"a": 100, "b": 3}


def test_an_owner_with_large_calls_has_fewer_of_them() -> None:
    scheduler, granted = Scheduler(), Counter[str]()
    waiting = {owner: request(owner, owner=owner) for owner in ("large", "small")}
    for _ in range(120):
        chosen = scheduler.first(waiting.values(), by_rank, 0.0)
        assert chosen is not None
        granted[chosen.call.id] += 1
        scheduler.granted(chosen, 3.0 if chosen.call.owner == "large" else 1.0, 0.0)
    assert granted == {"large": 30, "small": 90}


def test_an_owner_that_comes_later_has_no_claim_on_the_past() -> None:
    scheduler = Scheduler()
    alone, other = request("a", owner="a"), request("b", owner="b")
    for _ in range(50):
        scheduler.granted(alone, 1.0, 0.0)
    names = []
    for _ in range(4):
        chosen = scheduler.first([alone, other], by_rank, 0.0)
        assert chosen is not None
        scheduler.granted(chosen, 1.0, 0.0)
        names.append(chosen.call.id)
    assert names == ["b", "a", "b", "a"]


def test_a_job_that_has_waited_for_a_fifth_of_its_time_goes_before_owners_that_come_later() -> None:
    waiting = [request(f"a{n}", owner="a", age=15.0, offset=n) for n in range(3)]
    fresh = request("b", owner="b", offset=9)
    assert order(*waiting, fresh) == ["a0", "b", "a1", "a2"]
    assert order(*waiting, fresh, now=6.0) == ["a0", "a1", "a2", "b"]
    assert order(*waiting, request("batch", "batch", age=30.0), now=6.0)[-1] == "batch"


def test_a_batch_job_near_its_end_has_a_small_share_though_people_wait() -> None:
    scheduler, granted = Scheduler(), Counter[str]()
    waiting = [request("person"), request("batch", "batch", age=60.0)]
    for second in range(1000):
        chosen = scheduler.first(waiting, by_rank, 0.01 * second)
        assert chosen is not None
        scheduler.granted(chosen, 0.01, 0.01 * second)
        granted[chosen.call.id] += 1
    assert 45 <= granted["batch"] <= 55


def test_a_request_of_a_process_that_names_no_times_is_never_old() -> None:
    assert order(request("a", max_wait=0.0, offset=1), request("b", offset=2), now=15.0) == ["a", "b"]
