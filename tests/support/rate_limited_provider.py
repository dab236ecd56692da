"""A provider with exact windows in virtual time, one for all processes: what it lets in, and what not."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextvars import Context
from dataclasses import dataclass, field

from eco2.call import Answer, Call, Reply, Usage
from eco2.errors import ProviderDown, RateLimited
from eco2.fake.config import FakeConfig
from eco2.fake.windows import RateLimits
from eco2.pacer import TRANSIT_GUARD, Limits
from eco2.ports import no_gate
from eco2.quota.budget import GRANT_LIFE
from eco2.tokens.estimate import Counting
from tests.support.provider_windows import Arrival

WAY = TRANSIT_GUARD - GRANT_LIFE
"""Seconds that a call may be on its way."""


def whole(limit: float | None) -> int | None:
    return None if limit is None else int(limit)


@dataclass
class Windowed:
    """`completion` draws how long an answer is; a prompt has a token for four letters.

    `down`: it answers everybody 503. `silent`: it answers, and does not say what it counted.
    """

    limits: Limits
    counting: Counting = "request"
    seconds: float = 2.0
    completion: Callable[[random.Random], int] = lambda dice: dice.randint(20, 80)
    down: bool = False
    silent: bool = False
    seed: int = 0
    requests: list[Arrival] = field(default_factory=list)
    tokens: list[Arrival] = field(default_factory=list)
    sent: list[tuple[float, str, int]] = field(default_factory=list)
    """When which job's calls left, with which `max_completion_tokens`: those too that were not let in."""
    refused: int = 0

    def __post_init__(self) -> None:
        config = FakeConfig(rpm=whole(self.limits.requests), tpm=whole(self.limits.tokens))
        self._windows = RateLimits(config)
        self._dice = random.Random(self.seed)

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await gate()
        loop = asyncio.get_running_loop()
        self.sent.append((loop.time(), job_id, call.max_tokens))
        # On its way a call belongs to no process: it arrives although its sender stands still meanwhile.
        usage = await loop.create_task(self._arrive(call), context=Context())
        await asyncio.sleep(self.seconds)
        value = call.schema(call.text)  # type: ignore[call-arg]  # `schema` is str in these tests
        return Reply(value, "windowed", Usage() if self.silent else usage)

    async def _arrive(self, call: Call[Answer]) -> Usage:
        await asyncio.sleep(self._dice.uniform(0, WAY))
        if self.down:
            raise ProviderDown("503")
        return self._count(asyncio.get_running_loop().time(), call)

    def _count(self, now: float, call: Call[Answer]) -> Usage:
        prompt = 12 + (len(call.system) + len(call.text)) // 4
        completion = min(call.max_tokens, self.completion(self._dice))
        counted = {
            "request": max(prompt, call.max_tokens),
            "input": prompt,
            "usage": prompt + completion,
        }[self.counting]
        if (refusal := self._windows.refuses(now, counted)) is not None:
            self.refused += 1
            raise RateLimited("429", refusal.retry_after)
        self._windows.count(now, counted)
        self.requests.append((now, 1.0))
        self.tokens.append((now, float(counted)))
        return Usage(prompt, 0, completion)
