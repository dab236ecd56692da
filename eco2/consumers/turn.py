"""One call's turn: its share of the minute's budget, from the claim to what the provider counted.

What it guarantees: no byte leaves without a grant that is fresh at that very moment; what is not used goes
back; what was counted replaces what was estimated.
"""

import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Generic

from eco2.call import Answer, Call, Usage
from eco2.consumers.outcome import Overtaken
from eco2.consumers.provider import Provider
from eco2.consumers.run import Run
from eco2.errors import GrantExpired, RunVoid
from eco2.ports import Claim, Grant


class Turn(Generic[Answer]):
    """`call`: as it is to be sent; its longest answer may be shorter than the stage asked for."""

    def __init__(self, provider: Provider, run: Run, call: Call[Answer], held: AsyncExitStack) -> None:
        self.call = call
        self._provider = provider
        self._run = run
        self._held = held
        self._grant: Grant | None = None
        if (budget := provider.budget) is not None:
            self._estimate = budget.estimator.estimate(call)
            self.call = replace(call, max_tokens=self._estimate.max_completion_tokens)

    @classmethod
    async def of(
        cls, provider: Provider, run: Run, call: Call[Answer], held: AsyncExitStack
    ) -> "Turn[Answer]":
        """Returns when it is the call's turn; what is not used goes back when `held` closes."""
        turn = cls(provider, run, call, held)
        await turn._reserve()
        return turn

    async def taken(self) -> None:
        """Right before the first byte leaves: a grant that has grown old meanwhile is replaced."""
        await self._run.interrupt.may_begin()
        while self._grant is not None:
            try:
                self._grant.use()
            except GrantExpired:
                await self._reserve()
            else:
                return

    def counted(self, usage: Usage) -> None:
        """The call took `usage`."""
        if (budget := self._provider.budget) is not None:
            budget.estimator.learn(self._estimate, usage)
            if self._grant is not None and usage.input_tokens:  # else the provider did not say
                self._grant.settle(budget.counted(self._estimate, usage))

    def pushed_back(self, retry_after: float | None) -> None:
        """The provider refused the call as too fast."""
        if self._grant is not None:
            self._grant.push_back(retry_after)

    async def _reserve(self) -> None:
        budget = self._provider.budget
        if budget is None:
            return
        claim = Claim(
            job=self._run.job.id,
            run=self._run.id,
            offset=self._run.offset,
            started=self._run.started,
            kind=self.call.kind,
            tokens=self._estimate.cost,
        )
        asked = time.monotonic()
        try:
            self._grant = await self._held.enter_async_context(budget.quota.reserve(claim))
            self._provider.granted(time.monotonic() - asked)
        except RunVoid:
            # The leader has seen another run, and so will we: this one ends here.
            self._run.interrupt.fire(Overtaken())
            await self._run.interrupt.may_begin()
            raise
