"""The port for the sizes of large calls, which outlive the leader that granted them."""

from typing import Protocol


class Sizes(Protocol):
    """The sizes of a budget's large calls, kept where they outlive all workers (`eco2/journal/sizes.py`)."""

    async def catch_up(self) -> None:
        """Returns once `largest` knows all that was said before."""

    def largest(self) -> float:
        """Tokens of the largest call that may have been granted lately; 0.0: none was large."""

    async def say(self, tokens: float) -> None:
        """Returns once every later leader will know that a call of so many tokens may be granted."""
