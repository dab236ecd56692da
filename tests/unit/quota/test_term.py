"""The decisions of a leader, one by one."""

import pytest
from msgspec.structs import replace

from eco2.pacer import SPAN, Limits, Pacer
from eco2.quota.message import Ask, Granted, Later, PushedBack, Refused, Reply, Report, Settled
from eco2.quota.term import BATCH, HOLD, MOST_HELD, Term
from eco2.quota.throttle import Throttle

LIMITS = Limits(requests=60.4, tokens=60_400.0)
"""One call and a thousand tokens a second."""


class Scene:
    """A term whose window is empty again at time 0."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.void: set[str] = set()
        self.term = Term(
            "epoch", limits, lambda job, run: run not in self.void, Pacer(limits, -SPAN, "input")
        )

    def ask(
        self,
        now: float,
        name: str,
        offset: int = 1,
        started: bool = False,
        tokens: float = 1.0,
        run: str = "run",
        limits: Limits | None = None,
        worker: str = "w",
    ) -> Reply | None:
        wish = self.wish(name, offset, tokens, run)
        wish = replace(wish, worker=worker, limits=limits or self.limits, started=started)
        return self.term.ask(now, wish)

    def wish(self, name: str, offset: int = 1, tokens: float = 1.0, run: str = "run") -> Ask:
        return Ask(
            id=name,
            worker="w",
            limits=self.limits,
            job=f"job {offset}",
            run=run,
            offset=offset,
            started=False,
            call="answer",
            tokens=tokens,
        )

    def granted(self, now: float) -> list[str]:
        return [name for name, reply in self.term.due(now) if isinstance(reply, Granted)]

    def report(self, now: float, **words: object) -> None:
        self.term.report(now, Report(worker="w", limits=self.limits, **words))  # type: ignore[arg-type]

    def busy(self) -> None:
        """From 0 on the next call must wait for about a second."""
        for number in range(2):
            self.ask(0.0, f"busy {number}")
        assert len(self.granted(0.0)) == 2
        self.ask(0.0, "last")
        assert self.granted(0.0) == []
        self.report(0.0, unsent=("last",))


def test_what_fits_is_granted_at_once() -> None:
    scene = Scene()
    assert scene.ask(0.0, "a") is None
    assert scene.term.due(0.0) == [("a", Granted(epoch="epoch", held=0.0))]
    assert scene.term.wake(0.0) is None


def test_what_does_not_fit_is_held_until_the_exact_moment() -> None:
    scene = Scene()
    scene.busy()
    scene.ask(0.25, "a")
    wake = scene.term.wake(0.25)
    assert wake is not None
    assert wake == pytest.approx(1.0)
    assert scene.term.due(0.99) == []
    assert scene.term.due(wake) == [("a", Granted(epoch="epoch", held=wake - 0.25))]


def test_the_oldest_job_goes_first_and_those_that_began_before_all_others() -> None:
    scene = Scene()
    scene.busy()
    for name, offset, started in (
        ("new", 3, False),
        ("begun", 9, True),
        ("old", 2, False),
        ("first", 5, True),
    ):
        scene.ask(0.0, name, offset, started)
    order: list[str] = []
    now = 0.0
    for turn in range(3):
        wake = scene.term.wake(now)
        assert wake is not None
        now = wake
        order += scene.granted(now)
        if turn == 0:
            scene.ask(now, "elder", 1)
    assert order == ["first", "begun", "elder"]


def test_nothing_small_passes_what_is_next() -> None:
    scene = Scene(Limits(tokens=60_400.0))
    scene.ask(0.0, "a", tokens=60_000.0)
    assert scene.granted(0.0) == ["a"]
    scene.ask(0.0, "large", 1, tokens=10_000.0)
    scene.ask(0.0, "small", 2, tokens=1.0)
    assert scene.granted(1.0) == []


def test_a_burst_is_granted_in_batches() -> None:
    scene = Scene(Limits(requests=60_400.0))
    for number in range(2 * BATCH):
        scene.ask(0.0, f"{number}")
    assert len(scene.granted(0.0)) == BATCH
    assert scene.term.wake(0.0) == 0.0
    assert len(scene.granted(0.0)) == BATCH


def test_asked_twice_is_granted_once_and_answered_alike() -> None:
    scene = Scene()
    scene.ask(0.0, "a")
    scene.term.due(0.0)
    assert scene.ask(0.5, "a") == Granted(epoch="epoch", held=-0.5)
    scene.ask(0.5, "b")
    scene.ask(0.5, "b")
    assert scene.granted(0.5) == ["b"]
    assert scene.term.waiting == 0


def test_who_has_waited_long_must_ask_again_and_keeps_its_rank() -> None:
    scene = Scene(Limits(requests=1.0))
    scene.ask(0.0, "a")
    scene.term.due(0.0)
    scene.ask(1.0, "b")
    assert scene.term.wake(1.0) == 1.0 + HOLD
    assert scene.term.due(1.0 + HOLD) == [("b", Later(seconds=0.0))]
    assert scene.term.waiting == 0  # a silent worker's ask is gone


def test_when_it_is_crowded_the_last_in_rank_come_again_later() -> None:
    scene = Scene()
    scene.busy()
    for number in range(MOST_HELD):
        scene.ask(0.0, f"{number}", offset=number)
    assert scene.term.due(0.0) == []
    scene.ask(0.0, "old", offset=-1)
    assert scene.term.due(0.0) == [(f"{MOST_HELD - 1}", Later(seconds=10.0))]


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (Limits(1000.0), 4.5),
        (Limits(1000.0, 5000.0), 9.0),
        (Limits(None, 5000.0), 9.0),
        (Limits(1e6), 1.0),
        (Limits(), 1.0),
    ],
)
def test_those_without_a_place_come_again_in_half_of_the_time(limits: Limits, seconds: float) -> None:
    scene = Scene(limits)
    for number in range(MOST_HELD + 1):
        scene.ask(0.0, f"{number}", offset=number, tokens=10.0)
    scene.term._throttle = Throttle(paused=1.0)
    assert scene.term.due(0.0) == [(f"{MOST_HELD}", Later(seconds=seconds))]


def test_a_void_run_is_refused_also_when_it_became_so_while_it_waited() -> None:
    scene = Scene()
    scene.busy()
    scene.ask(0.0, "a", run="r1")
    scene.void.add("r1")
    ((name, reply),) = scene.term.due(0.5)
    assert (name, isinstance(reply, Refused) and reply.code) == ("a", "RUN_VOID")
    again = scene.ask(0.5, "b", run="r1")
    assert isinstance(again, Refused)
    assert again.code == "RUN_VOID"


def test_a_call_larger_than_a_minute_is_refused_at_once() -> None:
    scene = Scene()
    scene.busy()
    reply = scene.ask(0.0, "a", tokens=60_401.0)
    assert isinstance(reply, Refused)
    assert reply.code == "CALL_TOO_LARGE"


def test_what_is_withdrawn_is_neither_held_nor_granted_later() -> None:
    scene = Scene()
    scene.busy()
    scene.ask(0.0, "a")
    scene.report(0.1, unsent=("a", "unheard of"))
    assert scene.term.waiting == 0
    for name in ("a", "unheard of"):
        reply = scene.ask(0.2, name)
        assert isinstance(reply, Refused)
        assert reply.code == "WITHDRAWN"


def test_a_grant_given_back_twice_makes_room_once() -> None:
    scene = Scene()
    scene.busy()
    scene.report(0.0, unsent=("busy 0", "busy 0"))
    scene.report(0.0, unsent=("busy 0",))
    scene.ask(0.0, "a")
    scene.ask(0.0, "b")
    assert scene.granted(0.0) == ["a"]


def test_what_a_call_really_took_makes_room() -> None:
    scene = Scene(Limits(tokens=60_400.0))
    scene.ask(0.0, "a", tokens=60_000.0)
    scene.term.due(0.0)
    scene.ask(0.0, "b", tokens=1000.0)
    assert scene.granted(2.0) == []
    scene.report(2.0, settled=(Settled("a", 1000.0),))
    assert scene.granted(2.0) == ["b"]


def test_a_429_halves_the_budget_and_pauses_it() -> None:
    scene = Scene()
    scene.ask(0.0, "a")
    scene.term.due(0.0)
    scene.report(1.0, pushed_back=(PushedBack("a", 2.0), PushedBack("unheard of", 99.0)))
    assert scene.term.factor(1.0) == 0.5
    scene.ask(1.0, "b")
    assert scene.term.due(2.9) == []
    assert scene.term.wake(2.9) == 3.0
    assert scene.granted(3.0) == ["b"]


def test_the_lowest_limits_hold_as_long_as_their_worker_is_heard() -> None:
    scene = Scene()
    scene.ask(0.0, "a", limits=Limits(requests=30.0), worker="careful")
    scene.term.due(0.0)
    assert scene.term.limits == Limits(30.0, 60_400.0)
    scene.ask(SPAN - 1, "b")
    scene.term.due(SPAN - 1)
    assert scene.term.limits == Limits(30.0, 60_400.0)
    scene.term.due(SPAN)
    assert scene.term.limits == LIMITS


@pytest.mark.parametrize(("own", "kept"), [(Limits(requests=30.0), False), (LIMITS, True)])
def test_the_limit_of_a_worker_that_has_gone_ends_unless_the_provider_named_it(
    own: Limits, kept: bool
) -> None:
    scene, gone = Scene(), set[str]()
    scene.term = Term(
        "epoch", LIMITS, lambda job, run: True, Pacer(LIMITS, -SPAN, "input"), gone=gone.__contains__
    )
    wish = replace(scene.wish("a"), worker="other", limits=Limits(requests=30.0), own=own)
    scene.term.ask(0.0, wish)
    assert scene.term.limits.requests == 30.0
    gone.add("other")
    scene.term.due(1.0)
    assert (scene.term.limits.requests == 30.0) is kept


def test_a_worker_with_a_low_limit_does_not_stop_the_calls_of_the_others() -> None:
    """They have made four calls, and may have made 3000 before their leader began."""
    high, low = Limits(requests=3000.0), Limits(requests=60.0)
    scene = Scene(high)
    scene.term = Term("epoch", high, lambda job, run: True, Pacer(high, 0.0))
    for number in range(4):
        scene.ask(3.0, f"{number}", limits=high)
    assert len(scene.granted(3.0)) == 4
    status = scene.term.status(3.0)
    assert status.used.requests == pytest.approx(4.0)
    assert status.assumed.requests is not None
    assert status.assumed.requests > 2800
    scene.ask(4.0, "a", limits=low, worker="low")
    wake = scene.term.wake(4.0)
    assert wake is not None
    assert wake < 10.0
    assert scene.granted(wake) == ["a"]


def test_a_term_begins_with_a_full_window() -> None:
    scene = Scene()
    scene.term = Term("epoch", LIMITS, lambda job, run: True, Pacer(LIMITS, 0.0))
    scene.ask(0.0, "a")
    assert scene.term.due(0.0) == []
    wake = scene.term.wake(0.0)
    assert wake is not None
    assert 2.0 < wake < 4.0
    assert scene.granted(wake) == ["a"]


def test_what_is_a_window_old_is_forgotten() -> None:
    scene = Scene()
    scene.ask(0.0, "a")
    scene.term.due(0.0)
    scene.report(0.0, unsent=("b",))
    scene.term.due(SPAN)
    assert scene.ask(SPAN, "b") is None
    assert scene.ask(SPAN, "a") is None


def test_a_copy_is_granted_at_once_and_the_ask_behind_it_gets_the_same_grant() -> None:
    scene = Scene()
    assert scene.term.express(0.0, scene.wish("a")) == Granted(epoch="epoch", held=0.0)
    assert [entry.id for entry in scene.term.news()] == ["a"]
    assert scene.ask(0.002, "a") == Granted(epoch="epoch", held=-0.002)
    assert scene.term.express(0.003, scene.wish("a")) == Granted(epoch="epoch", held=-0.003)
    assert scene.granted(0.003) == []
    assert scene.term.news() == ()
    assert scene.term.status(0.003).used == Limits(1.0, 1.0)


def test_a_copy_behind_its_ask_changes_nothing() -> None:
    scene = Scene()
    scene.ask(0.0, "a")
    assert scene.term.express(0.0, scene.wish("a")) is None
    assert scene.granted(0.0) == ["a"]
    assert scene.term.express(0.001, scene.wish("a")) == Granted(epoch="epoch", held=-0.001)
    assert scene.term.status(0.001).used == Limits(1.0, 1.0)


def test_a_copy_that_cannot_go_at_once_is_forgotten() -> None:
    scene = Scene()
    scene.busy()
    scene.void.add("old")
    assert scene.term.express(0.0, scene.wish("a")) is None
    assert scene.term.express(0.0, scene.wish("b", run="old")) is None
    assert scene.term.express(0.0, scene.wish("c", tokens=100_000.0)) is None
    scene.report(0.0, unsent=("d",))
    assert scene.term.express(5.0, scene.wish("d")) is None
    assert scene.term.waiting == 0
    assert scene.granted(5.0) == []


def test_a_copy_passes_nobody_that_waits() -> None:
    scene = Scene()
    scene.ask(0.0, "a", tokens=1500.0)
    scene.ask(0.0, "large", offset=1, tokens=1900.0)
    assert scene.granted(0.0) == ["a"]
    assert scene.term.express(0.0, scene.wish("small", offset=2)) is None
    scene.report(0.0, unsent=("large",))
    assert scene.term.express(0.0, scene.wish("small", offset=2)) is not None  # there was room for it
