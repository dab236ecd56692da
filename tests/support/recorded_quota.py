"""A budget that grants at once, or when the test says so, and notes what becomes of each grant."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from eco2.errors import GrantExpired
from eco2.pacer import Limits
from eco2.ports import Claim


@dataclass
class Recorded:
    """`words`: what was said of it, in order; `expired`: it is too old already."""

    claim: Claim
    expired: bool = False
    words: list[str] = field(default_factory=list)

    def use(self) -> None:
        if self.expired:
            raise GrantExpired("too old")
        self.words.append("used")

    def settle(self, tokens: float) -> None:
        self.words.append(f"settled {tokens:g}")

    def refund(self) -> None:
        self.words.append("refunded")

    def push_back(self, retry_after: float | None) -> None:
        self.words.append(f"pushed back {retry_after}")


class RecordedQuota:
    """`open`: cleared, it grants nothing, as after the first `shut_after` grants. `refusals`: raised first,
    one per ask. `old`: so many of the first grants come too late."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.asked = 0
        self.withdrawn = 0
        self.old = 0
        self.shut_after = 0
        self.refusals: list[Exception] = []
        self.on_refusal: Callable[[], object] = lambda: None
        self.grants: list[Recorded] = []

    def told(self, limits: Limits) -> None:
        """Nothing to lower."""

    @asynccontextmanager
    async def reserve(self, claim: Claim) -> AsyncIterator[Recorded]:
        self.asked += 1
        if self.refusals:
            self.on_refusal()
            raise self.refusals.pop(0)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        grant = Recorded(claim, expired=len(self.grants) < self.old)
        self.grants.append(grant)
        if len(self.grants) == self.shut_after:
            self.open.clear()
        try:
            yield grant
        finally:
            grant.words.append("left")

    @property
    def words(self) -> list[list[str]]:
        return [grant.words for grant in self.grants]
