"""The providers that this process calls, each with all that bounds calls to it: budget, slots, breaker.

What it guarantees: a job that names a model gets that one and waits for it; any other goes where it is
expected to wait least, and never to a provider that is down while another takes calls; nothing waits on for
its turn at a provider that went down meanwhile.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from eco2.call import PaidCallFailed, Usage
from eco2.calls.breaker import Breaker
from eco2.errors import (
    CallTooLarge,
    CallUnsupported,
    InputRefused,
    PermanentError,
    ProviderAccessDenied,
    ProviderDown,
    ProviderTimeout,
    RateLimited,
)
from eco2.log import get_logger
from eco2.metrics import Metrics, Opening
from eco2.pacer import Limits
from eco2.ports import Model, Quota
from eco2.tokens.estimate import Counting, Estimate, Estimator

HALF_LIFE = 10.0
"""Seconds after which what a call had to wait counts half in what the next one expects."""
SECONDS = 5.0
"""How long a call takes, as long as none has succeeded."""
FEW = 10
"""Calls that tell how long the next one will take, and how many tokens."""

log = get_logger(__name__)


class WentDown(Exception):
    """The provider went down while a call waited for its turn: nothing was sent, and another may take it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long calls had to wait lately: `seconds` at the time `at`; it fades, so that an idle provider is
    tried again."""

    seconds: float = 0.0
    at: float = 0.0

    def expected(self, now: float) -> float:
        """Seconds."""
        return self.seconds * math.exp2((self.at - now) / HALF_LIFE)

    def seen(self, seconds: float, now: float) -> "Wait":
        """A call waited for `seconds`."""
        return Wait((self.expected(now) + seconds) / 2, now)


@dataclass(frozen=True, slots=True)
class Budget:
    """What a provider allows in a minute, as this process asks for it. `limits`: as they were set."""

    quota: Quota
    estimator: Estimator
    counting: Counting
    limits: Limits

    def counted(self, estimate: Estimate, usage: Usage) -> float | None:
        """What the provider counted a call as that took `usage`, in tokens.

        None where it gave no number that can be true: then the reservation stands.
        """
        if not estimate.explains(usage):
            return None
        match self.counting:
            case "request":
                return max(estimate.cost, usage.input_tokens)
            case "input":
                return usage.input_tokens
            case "usage":
                return usage.input_tokens + usage.output_tokens if usage.output_tokens else None


class Provider:
    """`name`: for operators. `model`: the name that clients pin. `budget`: None where nothing is limited.

    `concurrency`: calls in flight at once.
    """

    def __init__(
        self, name: str, model: str, adapter: Model, concurrency: int, metrics: Metrics, budget: Budget | None
    ) -> None:
        self.name = name
        self.model = model
        self.adapter = adapter
        self.budget = budget
        self.slots = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._in_flight = 0
        self._seconds = SECONDS
        self._tokens = 0.0
        self.metrics = metrics
        self._breaker = Breaker()
        self._wait = Wait()
        self._waiting: dict[asyncio.Timeout, float] = {}
        metrics.provider(name, concurrency)

    @property
    def up(self) -> bool:
        """False while its calls wait for it to come back."""
        return self._breaker.closed

    @property
    def down_for(self) -> float:
        """Seconds until a call may be tried; 0.0: now."""
        return self._breaker.wait(_now())

    def expected_wait(self) -> float:
        """Seconds that a call which asks now has to wait, as far as this process can tell."""
        now = _now()
        longest = now - min(self._waiting.values(), default=now)
        ahead = len(self._waiting)
        granted = ahead * (self.budget.limits.pace(self._tokens) if self.budget is not None else 0.0)
        crowd = max(0, ahead + self._in_flight + 1 - self._concurrency)
        slot = crowd * self._seconds / self._concurrency
        return max(self.down_for, self._wait.expected(now), longest, granted, slot)

    def estimated(self, tokens: float) -> None:
        """A call wants so many tokens of the minute's budget; those before and behind it are much like it."""
        self._tokens += (tokens - self._tokens) / FEW if self._tokens else tokens

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """A call waits for its turn while the block runs. Raises `WentDown` where it waits in vain."""
        began, patience = _now(), asyncio.timeout(None)
        try:
            async with patience:
                self._waiting[patience] = began
                try:
                    with self.metrics.call_waiting(self.name):
                        yield
                finally:
                    del self._waiting[patience]
        except TimeoutError as error:
            if not patience.expired():
                raise
            raise WentDown from error
        if self.down_for:
            raise WentDown
        now = _now()
        self._wait = self._wait.seen(now - began, now)
        self.metrics.call_waited(self.name, now - began)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Tells the breaker how the call inside ended."""
        ahead = not self._breaker.closed
        self._breaker = self._breaker.began()
        began = _now()
        self._in_flight += 1
        try:
            with self.metrics.call_in_flight(self.name):
                yield
        except (ProviderDown, ProviderTimeout):
            self._moved(self._breaker.failed(_now(), ahead), "down")
            raise
        except ProviderAccessDenied:
            self._moved(self._breaker.shut(_now()), "refused")
            raise
        except (PaidCallFailed, RateLimited, InputRefused, CallUnsupported, CallTooLarge):  # it did answer
            self._moved(self._breaker.succeeded())
            raise
        except BaseException:
            self._moved(self._breaker.abandoned(ahead))
            raise
        finally:
            self._in_flight -= 1
        self._seconds += (_now() - began - self._seconds) / FEW
        self._moved(self._breaker.succeeded())

    def _moved(self, breaker: Breaker, why: Opening | None = None) -> None:
        """`why`: what opens it, if it does, or keeps it open."""
        before, self._breaker = self._breaker, breaker
        if breaker.until is not None and breaker.until != before.until:
            if why is not None:
                self.metrics.breaker_opened(self.name, why)
            for patience in self._waiting:
                if not patience.expired():
                    patience.reschedule(_now())
        if before.closed != breaker.closed:
            what = "the provider is back" if breaker.closed else "the provider is down: its calls wait"
            log.warning(what, provider=self.name)
            self.metrics.breaker(self.name, closed=breaker.closed)


class Providers:
    """`default`: the model of a job that names none; None: whichever provider is best at the moment."""

    def __init__(self, providers: Sequence[Provider], default: str | None = None) -> None:
        self._providers = tuple(providers)
        self._default = default

    def offers(self, model: str | None) -> tuple[Provider, ...]:
        """Those that a job of that model may be sent to. Raises `PermanentError` for an unknown name."""
        wanted = model or self._default
        if wanted is None:
            return self._providers
        offers = tuple(provider for provider in self._providers if provider.model == wanted)
        if not offers:
            names = sorted({provider.model for provider in self._providers})
            raise PermanentError(
                f"model {wanted!r} is not supported; use one of: {', '.join(names)}", "UNSUPPORTED_MODEL"
            )
        return offers


def best(offers: Sequence[Provider], avoid: Provider | None = None) -> Provider:
    """Of those that take calls at present the one with the shortest expected wait; among equals the first.

    `avoid`: where the call has just failed; it goes there only if no other takes it. If all are down: the one
    that may be tried first.
    """

    def rank(offer: Provider) -> tuple[bool, bool, float]:
        down = offer.down_for > 0
        return (down, not down and offer is avoid, offer.expected_wait())

    return min(offers, key=rank)


def _now() -> float:
    return asyncio.get_running_loop().time()
