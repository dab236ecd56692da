"""Acks in rows: in whatever order deliveries are settled, each is settled once, and none too early."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from eco2.broker.rabbitmq.consumer import Ack, AckTracker


class FakeChannel:
    """What the broker does with the frames: an ack of what it does not wait for closes the channel."""

    def __init__(self, deliveries: int) -> None:
        self.waiting = set(range(1, deliveries + 1))

    def take(self, ack: Ack) -> set[int]:
        assert ack.tag in self.waiting, f"unknown delivery tag {ack.tag}"
        settled = {tag for tag in self.waiting if tag == ack.tag or (ack.multiple and tag < ack.tag)}
        self.waiting -= settled
        return settled


@st.composite
def turns(draw: st.DrawFn) -> list[list[int]]:
    """All deliveries in some order, in groups that are acked together."""
    order = draw(st.permutations(range(1, draw(st.integers(1, 12)) + 1)))
    cuts = sorted(draw(st.sets(st.integers(1, len(order)))) | {0, len(order)})
    return [list(order[begin:end]) for begin, end in pairwise(cuts)]


@given(turns(), st.sets(st.integers(1, 12)))
def test_exactly_what_is_acked_is_acked_whatever_the_order_and_what_else_is_given_back(
    turns: list[list[int]], given_back: set[int]
) -> None:
    channel, rows = FakeChannel(sum(map(len, turns))), AckTracker()
    for turn in turns:
        for tag in given_back.intersection(turn):
            channel.waiting.discard(tag)
            rows.settled(tag)
        acked = set(turn) - given_back
        settled = set[int]().union(*map(channel.take, rows.acks(acked)))
        assert settled == acked
    assert not channel.waiting


def test_what_is_settled_in_order_takes_one_frame() -> None:
    rows = AckTracker()
    assert list(rows.acks([2, 1, 3])) == [Ack(3, multiple=True)]
    assert list(rows.acks([4])) == [Ack(4, multiple=False)]


def test_a_straggler_holds_up_nobody() -> None:
    rows = AckTracker()
    assert list(rows.acks([2, 3])) == [Ack(2, multiple=False), Ack(3, multiple=False)]
    assert list(rows.acks([1, 5])) == [Ack(1, multiple=False), Ack(5, multiple=False)]
    assert list(rows.acks([4, 6])) == [Ack(6, multiple=True)]
