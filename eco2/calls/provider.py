"""A provider that this process calls, with all that bounds calls to it: slots, breaker, budget.

Guarantees: no call keeps waiting for its turn at a provider that has gone down. While it is down, its calls
wait instead of failing one after the other:

closed ──FAILURES in a row──▶ open ──pause over──▶ half-open: one trial call ──it succeeds──▶ closed
                               ▲─────────────────────── it fails: a longer pause ──┘
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal

from eco2.call import PaidCallFailed, Price, Usage
from eco2.errors import (
    BudgetExceeded,
    CallTooLarge,
    CallUnsupported,
    InputRefused,
    ProviderAccessDenied,
    ProviderDown,
    ProviderTimeout,
    RateLimited,
)
from eco2.job import PRIORITIES, Priority
from eco2.log import get_logger
from eco2.metrics import Metrics, Opening
from eco2.pacer import Limits
from eco2.ports import Model, Quota
from eco2.tokens.estimate import Counting, Estimate, Estimator

HALF_LIFE = 10.0
"""Seconds after which what a call had to wait counts half in what the next one expects."""
DEFAULT_CALL_SECONDS = 5.0
"""How long a call takes, as long as none has succeeded."""
EWMA_SAMPLES = 10
"""Calls over which the length of a call is averaged."""

BATCH_SHARE = 4
"""One of so many slots, at most, is held by a batch call that waits for its grant, perhaps for minutes."""

FAILURES = 5
"""Calls that failed in a row, over all jobs, before the provider counts as down."""
FIRST_PAUSE = 2.0
MAX_PAUSE = 15.0
"""Seconds; the pause doubles up to it. Short, since a provider that is back should not stand idle."""

log = get_logger(__name__)


class BreakerOpened(Exception):
    """The provider went down while a call waited for its turn: nothing was sent, and another may take it."""


@dataclass(frozen=True, slots=True)
class Breaker:
    """A pure state machine; `now` is seconds of any clock that does not jump.

    `until`: open until then; None while closed. `pause`: how long it was opened for last.

    `half_open`: the trial call is in flight.
    """

    failures: int = 0
    until: float | None = None
    pause: float = 0.0
    half_open: bool = False

    @property
    def closed(self) -> bool:
        return self.until is None

    def wait(self, now: float) -> float:
        """Computes seconds after which to ask again; 0.0: a call may begin now, see `begin_trial`."""
        if self.until is None:
            return 0.0
        if self.half_open:
            return FIRST_PAUSE
        return max(0.0, self.until - now)

    def begin_trial(self) -> "Breaker":
        """Notes that the trial call begins, which `wait` let through an open breaker."""
        return replace(self, half_open=True)

    def succeeded(self) -> "Breaker":
        """Notes that a call was answered."""
        return Breaker()

    def cancelled(self, trial: bool) -> "Breaker":
        """Notes that a call ended for a reason that shows nothing about the provider."""
        return replace(self, half_open=False) if trial else self

    def failed(self, now: float, trial: bool) -> "Breaker":
        """Notes that a call found the provider down. Calls sent before the breaker opened change nothing."""
        failures = self.failures + 1
        if not self.closed and not trial:
            return self
        return self._opened(failures, now) if failures >= FAILURES else replace(self, failures=failures)

    def trip(self, now: float) -> "Breaker":
        """Opens at once: the provider refused to serve any of our calls."""
        return self._opened(FAILURES, now)

    def _opened(self, failures: int, now: float) -> "Breaker":
        pause = min(MAX_PAUSE, max(FIRST_PAUSE, 2 * self.pause))
        return Breaker(failures, now + pause, pause, half_open=False)


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """An estimate of how long calls have to wait: `seconds` at the time `at`.

    The estimate fades, so that an idle provider is tried again.
    """

    seconds: float = 0.0
    at: float = 0.0

    def expected(self, now: float) -> float:
        """Computes the seconds that the next call will wait."""
        return self.seconds * math.exp2((self.at - now) / HALF_LIFE)


@dataclass(frozen=True, slots=True)
class Budget:
    """A provider's limits per minute, as this process asks for its share. `limits`: as they were set.

    `price`: of its model; None if it is not known.
    """

    quota: Quota
    estimator: Estimator
    counting: Counting
    limits: Limits
    price: Price | None = None

    def most(self, estimate: Estimate) -> Decimal:
        """Computes the most USD that a call may cost. Raises `BudgetExceeded` if its model has no price."""
        if self.price is None:
            raise BudgetExceeded(
                "this job has a limit of cost, and what its next call would cost is not known: send it again "
                "without the limit, or with another model",
                "PRICE_UNKNOWN",
            )
        # The most that its characters weigh, also where calls have counted less until now.
        prompt = max(estimate.prompt, sum(estimate.parts))
        return self.price.cost(prompt, 0, estimate.max_completion_tokens)

    def counted(self, estimate: Estimate, usage: Usage) -> float | None:
        """Computes the tokens that the provider counted for a call that took `usage`.

        None where it gave no number that can be true: then the reservation stands.
        """
        if not estimate.explains(usage):
            return None
        match self.counting if estimate.longest else "input":  # there is no answer to a text to embed
            case "request":
                return max(estimate.cost, usage.input_tokens)
            case "input":
                return usage.input_tokens
            case "usage":
                return usage.input_tokens + usage.output_tokens if usage.output_tokens else None


class Provider:
    """`name`: for operators. `model`: the name that clients pin.

    `budget`: None where nothing is limited, and nothing costs: the local model's.

    `concurrency`: calls in flight at once. `embeds`: its model embeds texts, and answers nothing else.

    `slots`: of calls; `next_batch`: of the batch calls the one that waits for a slot, so that a person's call
    stands behind one of them at most.
    """

    def __init__(
        self,
        name: str,
        model: str,
        adapter: Model,
        concurrency: int,
        metrics: Metrics,
        budget: Budget | None,
        embeds: bool = False,
    ) -> None:
        self.name = name
        self.model = model
        self.embeds = embeds
        self.adapter = adapter
        self.budget = budget
        self.metrics = metrics
        self.slots = asyncio.Semaphore(concurrency)
        self.next_batch = asyncio.Lock()
        self._batch_asking = asyncio.Semaphore(max(1, concurrency // BATCH_SHARE))
        self.breaker = Breaker()
        self._concurrency = concurrency
        self._in_flight = 0
        self._seconds = DEFAULT_CALL_SECONDS
        self._waits = dict.fromkeys(PRIORITIES, WaitEstimate())
        self._waiting: dict[asyncio.Timeout, tuple[float, Priority]] = {}
        metrics.provider(name, concurrency)

    @property
    def up(self) -> bool:
        """False while its calls wait for it to come back."""
        return self.breaker.closed

    @property
    def is_priced(self) -> bool:
        """Returns whether it is known what its calls cost."""
        return self.budget is None or self.budget.price is not None

    def expected_wait(self, now: float, priority: Priority = "interactive") -> float:
        """Estimates the seconds that a call which asks now has to wait, as far as this process can know.

        Batch calls stand in front of no interactive one.
        """
        before = [since for since, other in self._waiting.values() if priority in ("batch", other)]
        longest = now - min(before, default=now)
        granted, ahead = 0.0, len(before)
        if ahead and self.budget is not None:
            granted = ahead * self.budget.limits.pace(self.budget.estimator.mean_cost)
        crowd = max(0, ahead + self._in_flight + 1 - self._concurrency)
        slot = crowd * self._seconds / self._concurrency
        return max(self.breaker.wait(now), self._waits[priority].expected(now), longest, granted, slot)

    @asynccontextmanager
    async def waiting(self, priority: Priority = "interactive") -> AsyncIterator[None]:
        """Marks a call as waiting for its turn. Raises `BreakerOpened` once that is in vain."""
        clock = asyncio.get_running_loop().time
        began, timer = clock(), asyncio.timeout(None)
        try:
            async with timer:
                self._waiting[timer] = began, priority
                try:
                    with self.metrics.call_waiting(self.name):
                        async with self._batch_asking if priority == "batch" else nullcontext():
                            yield
                finally:
                    del self._waiting[timer]
        except TimeoutError as error:
            if not timer.expired():
                raise
            raise BreakerOpened from error
        now = clock()
        if self.breaker.wait(now):
            raise BreakerOpened
        expected = self._waits[priority].expected(now)
        self._waits[priority] = WaitEstimate((expected + now - began) / 2, now)
        self.metrics.call_waited(self.name, priority, now - began)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Reports to the breaker how the call inside ended."""
        clock = asyncio.get_running_loop().time
        began = clock()
        if trial := self.breaker.until is not None:
            self.breaker = self.breaker.begin_trial()
        self._in_flight += 1
        try:
            with self.metrics.call_in_flight(self.name):
                yield
        except (ProviderDown, ProviderTimeout):
            self._set_breaker(self.breaker.failed(clock(), trial), "down")
            raise
        except ProviderAccessDenied:
            self._set_breaker(self.breaker.trip(clock()), "refused")
            raise
        except (PaidCallFailed, RateLimited, InputRefused, CallUnsupported, CallTooLarge):  # it did answer
            self._set_breaker(self.breaker.succeeded())
            raise
        except BaseException:
            self._set_breaker(self.breaker.cancelled(trial))
            raise
        finally:
            self._in_flight -= 1
        self._seconds += (clock() - began - self._seconds) / EWMA_SAMPLES
        self._set_breaker(self.breaker.succeeded())

    def _set_breaker(self, breaker: Breaker, why: Opening | None = None) -> None:
        """Takes the breaker's next state. `why`: what opens it, if anything does, or keeps it open."""
        before, self.breaker = self.breaker, breaker
        if breaker.until is not None and breaker.until != before.until:
            if why is not None:
                self.metrics.breaker_opened(self.name, why)
            for timer in self._waiting:
                if not timer.expired():
                    timer.reschedule(asyncio.get_running_loop().time())
        if before.closed != breaker.closed:
            what = "the provider is back" if breaker.closed else "the provider is down: its calls wait"
            log.warning(what, provider=self.name)
            self.metrics.breaker(self.name, closed=breaker.closed)
