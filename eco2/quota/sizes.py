"""The port for the sizes of large calls, which outlive the leader that granted them."""

from typing import Protocol


class Sizes(Protocol):
    """The largest call of a budget, stored so that it outlives all workers (`largest_call_store.py`)."""

    async def catch_up(self) -> None:
        """Returns once `largest` includes all that was declared before."""

    def largest(self) -> float:
        """Tokens of the largest call that may have been granted lately; 0.0: none was large."""

    async def declare(self, tokens: float) -> None:
        """Returns once every later leader will know that a call of so many tokens may be granted."""
