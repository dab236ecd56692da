"""One call's turn: its share of the minute's budget, from the claim to what the provider counted.

What it guarantees: no byte leaves without a grant that is fresh at that very moment, and never longer after
the fence than that; what is not used goes back, at once; what was counted replaces what was estimated.
"""

import math
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Generic

from eco2.call import Answer, Call, Usage
from eco2.calls.caller import Caller
from eco2.calls.fence import Fence
from eco2.calls.provider import Provider
from eco2.errors import GrantExpired
from eco2.metrics import GrantOutcome
from eco2.ports import Claim, Grant


class Reservation(Generic[Answer]):
    """`call`: as it is to be sent; its longest answer may be shorter than the stage asked for."""

    def __init__(
        self, provider: Provider, caller: Caller, call: Call[Answer], held: AsyncExitStack, fence: Fence
    ) -> None:
        self.call = call
        self._provider = provider
        self._caller = caller
        self._held = held
        self._fence = fence
        self._grant: Grant | None = None
        self._outcome: GrantOutcome = "refunded"
        self._fenced = -math.inf
        if (budget := provider.budget) is not None:
            self._estimate = budget.estimator.estimate(call)
            provider.estimated(self._estimate.cost)
            self.call = replace(call, max_tokens=self._estimate.max_completion_tokens)

    @classmethod
    async def acquire(
        cls, provider: Provider, caller: Caller, call: Call[Answer], held: AsyncExitStack, fence: Fence
    ) -> "Reservation[Answer]":
        """Returns when it is the call's turn; what is not used goes back when `held` closes."""
        reservation = cls(provider, caller, call, held, fence)
        held.callback(reservation._release)
        await reservation._reserve()
        return reservation

    async def confirm(self) -> None:
        """Right before the first byte leaves: a grant that has grown old meanwhile is replaced."""
        await self._caller.interrupt.may_begin()
        while self._grant is not None:
            try:
                self._grant.use()
            except GrantExpired:
                self._grant.refund()  # or the old one would count beside the new one until the call is over
                self._outcome = "expired"
                self._release()
                await self._reserve()
            else:
                self._outcome = "used"
                return

    def settle(self, usage: Usage) -> None:
        """The call took `usage`."""
        if (budget := self._provider.budget) is not None:
            budget.estimator.learn(self._estimate, usage)
            tokens = budget.counted(self._estimate, usage)
            if self._grant is not None and tokens is not None:
                self._grant.settle(tokens)

    def throttled(self, retry_after: float | None) -> None:
        """The provider refused the call as too fast."""
        if self._grant is not None:
            self._grant.push_back(retry_after)

    async def _reserve(self) -> None:
        budget = self._provider.budget
        if budget is None:
            await self._pass_fence()
            return
        claim = Claim(
            job=self._caller.job.id,
            run=self._caller.id,
            offset=self._caller.offset,
            started=self._caller.started,
            kind=self.call.kind,
            tokens=self._estimate.cost,
        )
        asked = time.monotonic()
        self._grant = await self._held.enter_async_context(budget.quota.reserve(claim))
        self._provider.metrics.call_granted(self._provider.name, time.monotonic() - asked)
        self._outcome = "refunded"  # unless it is used
        self._provider.metrics.reserved(self._provider.name, 1, self._estimate.cost)
        await self._pass_fence()

    async def _pass_fence(self) -> None:
        """Not again within its lease: where the journal is slower than a grant lives, no call would go."""
        if not self._fence.is_fresh(self._fenced):
            self._fenced = await self._fence.check(self._caller)

    def _release(self) -> None:
        """The grant, if there is one, counts no more among those of this process."""
        if self._grant is not None:
            self._grant = None
            self._provider.metrics.reserved(self._provider.name, -1, -self._estimate.cost)
            self._provider.metrics.grant_ended(self._provider.name, self._outcome)
