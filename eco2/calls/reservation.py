"""One call's share of the minute's budget, from the request to the provider's count, and its fence.

Guarantees: a request is sent only with an unexpired grant and within `LEASE` seconds of the fence check; an
unused grant is returned at once; the provider's count replaces the estimate. A job that may cost a limited
sum reserves the most that the call may cost, before it asks for the grant.

The fence: a process that was frozen or cut off does not know that its jobs were taken over. A grant is read
in the journal's order and lives for a fraction of a second, so it proves that the run is current. A call of
a provider without a budget begins only after a barrier of the journal, and so soon after it that nobody can
have waited out our silence.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Generic, Protocol

from eco2.call import Answer, Call, Usage
from eco2.calls.caller import Caller, Output
from eco2.calls.provider import Provider
from eco2.errors import GrantExpired
from eco2.metrics import GrantOutcome
from eco2.ports import Grant, GrantRequest
from eco2.tokens.estimate import Estimate

LEASE = 2.0
"""Seconds after the barrier within which the call must begin; far below any time-out of a silent holder."""


class Barrier(Protocol):
    """A journal, as far as the fence needs it."""

    async def barrier(self) -> None:
        """Returns once this process knows all that was written before the call."""


class Fence:
    """`monotonic`: seconds of a clock of this process alone."""

    def __init__(self, journal: Barrier, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._monotonic = monotonic

    async def check(self, caller: Caller, passed_at: float | None = None) -> float:
        """Waits until a call of `caller` may begin; returns when the fence was asked.

        `passed_at`: what an earlier check of the same call returned. Within its lease it holds: where the
        journal is slower than a grant lives, no call would ever be sent. A run that was overtaken ends here.
        """
        while passed_at is None or self._monotonic() - passed_at > LEASE:
            passed_at = self._monotonic()
            await self._journal.barrier()
            await caller.scope.checkpoint()
        return passed_at


@dataclass(slots=True)
class Reservation(Generic[Answer]):
    """`release` it when the call is over. `call`: once it is acquired, as it is to be sent; its longest
    answer may be shorter than the stage asked for.

    `sent_at`: when its first byte left, by `time.monotonic`; None before.
    """

    provider: Provider
    caller: Caller
    call: Call[Answer]
    output: Output
    fence: Fence
    sent_at: float | None = field(default=None, init=False)
    _estimate: Estimate | None = field(default=None, init=False)
    _grant: Grant | None = field(default=None, init=False)
    _outcome: GrantOutcome = field(default="refunded", init=False)
    _passed_at: float | None = field(default=None, init=False)
    _most: Decimal = field(default=Decimal(), init=False)
    _cost: Decimal = field(default=Decimal(), init=False)

    async def acquire(self) -> None:
        """Waits for the call's grant; without a budget, behind the fence.

        Raises `BudgetExceeded` if the job may not cost so much.
        """
        if (budget := self.provider.budget) is not None:
            if self._estimate is None:  # the request that waits for another grant is written already
                self._estimate = budget.estimator.estimate(self.call)
                if (longest := self._estimate.max_completion_tokens) != self.call.max_tokens:
                    self.call = replace(self.call, max_tokens=longest)
            job = self.caller.job
            if self.caller.allowance is not None:
                self.caller.allowance.reserve(most := budget.most(self._estimate))
                self._most = most
            request = GrantRequest(
                job=job.id,
                run=self.caller.id,
                offset=self.caller.offset,
                started=self.caller.started,
                kind=self.call.kind,
                tokens=self._estimate.cost,
                stage_started=self.output.stage_started,
                priority=job.priority,
                owner=job.owner,
                age=self.caller.age,
                max_wait=job.max_wait,
            )
            asked = time.monotonic()
            self._grant = await budget.quota.acquire(request)
            self.output.stage_started = None  # it came with the grant
            self._outcome = "refunded"  # unless it is used
            self.provider.metrics.call_granted(self.provider.name, job.priority, time.monotonic() - asked)
            self.provider.metrics.grant_ended(self.provider.name, "expired", self._grant.late)
            self.provider.metrics.reserved(self.provider.name, 1, self._estimate.cost)
        else:
            self.output.show_started(granted=True)  # before the barrier, and so before the call
            self._passed_at = await self.fence.check(self.caller)

    async def confirm(self, timer: asyncio.Timeout, seconds: float) -> None:
        """Opens the gate of the call: the adapter awaits it right before the first byte.

        A grant that has expired meanwhile is replaced. `timer` ends the call `seconds` after this returns:
        waiting for another grant is not the provider's time.
        """
        timer.reschedule(None)
        await self.caller.scope.checkpoint()
        while self._grant is not None:
            try:
                self._grant.confirm()
            except GrantExpired:
                self._outcome = "expired"
                self.release()  # or the old grant would count beside the new one until the call is over
                await self.acquire()
            else:
                self._outcome = "used"
                break
        if self._passed_at is not None:  # the connection may have taken longer than the lease
            await self.fence.check(self.caller, self._passed_at)
        timer.reschedule(asyncio.get_running_loop().time() + seconds)
        self.sent_at = time.monotonic()

    def settle(self, usage: Usage) -> None:
        """Replaces the estimate by the `usage` that the call took."""
        if (budget := self.provider.budget) is not None and self._estimate is not None:
            budget.estimator.learn(self._estimate, usage)
            self._cost = self._most if usage.cost is None else usage.cost
            tokens = budget.counted(self._estimate, usage)
            if self._grant is not None and tokens is not None:
                self._grant.settle(tokens)

    def throttled(self, retry_after: float | None) -> None:
        """Reports that the provider refused the call as too fast (429)."""
        if self._grant is not None:
            self._grant.throttled(retry_after)

    def release(self) -> None:
        """Ends the grant, if there is one; it counts no more among those of this process."""
        if self.caller.allowance is not None:
            self.caller.allowance.settle(self._most, self._cost)
            self._most = self._cost = Decimal()
        if self._grant is not None and self._estimate is not None:
            self._grant.release()
            self._grant = None
            self.provider.metrics.reserved(self.provider.name, -1, -self._estimate.cost)
            self.provider.metrics.grant_ended(self.provider.name, self._outcome)
