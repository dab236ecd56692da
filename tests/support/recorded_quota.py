"""A budget that grants at once, or when the test says so, and records what becomes of each grant."""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from eco2.errors import GrantExpired
from eco2.pacer import Limits
from eco2.ports import GrantRequest


@dataclass
class Recorded:
    """A grant that is good until `expires_at`, on the loop's clock. `words`: what was reported, in order."""

    request: GrantRequest
    expires_at: float = math.inf
    late: int = 0
    words: list[str] = field(default_factory=list)

    def confirm(self) -> None:
        if asyncio.get_running_loop().time() >= self.expires_at:
            raise GrantExpired("too old")
        self.words.append("confirmed")

    def settle(self, tokens: float) -> None:
        self.words.append(f"settled {tokens:g}")

    def throttled(self, retry_after: float | None) -> None:
        self.words.append(f"throttled {retry_after}")

    def release(self) -> None:
        self.words.append("released")


class RecordedQuota:
    """`open`: cleared, it grants nothing, as after the first `shut_after` grants. `refusals`: raised first,
    one per request. `old`: so many of the first grants come too late."""

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

    def update_limits(self, limits: Limits) -> None:
        """Nothing to lower."""

    async def acquire(self, request: GrantRequest) -> Recorded:
        self.asked += 1
        if self.refusals:
            self.on_refusal()
            raise self.refusals.pop(0)
        try:
            await self.open.wait()
        except asyncio.CancelledError:
            self.withdrawn += 1
            raise
        grant = Recorded(request, -math.inf if len(self.grants) < self.old else math.inf)
        self.grants.append(grant)
        if len(self.grants) == self.shut_after:
            self.open.clear()
        return grant

    @property
    def words(self) -> list[list[str]]:
        return [grant.words for grant in self.grants]
