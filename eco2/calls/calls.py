"""Model calls of all jobs of one process: bounded in number and time, with the one layer of retries.

The order: a provider that is up → a slot → a grant of the minute's budget → the fence → the first byte. What
it guarantees: a call is sent only while its run is the job's current one; while a provider is down, calls go
elsewhere or wait instead of failing; one that refuses a call for its own reasons (a key, a size) is asked no
more while another is left; and a limit of the provider is waited for, however often it takes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from eco2.call import Answer, Call, PaidCallFailed, Reply
from eco2.calls.caller import Caller
from eco2.calls.fence import Fence
from eco2.calls.provider import Provider, Providers, WentDown, best
from eco2.calls.reservation import Reservation
from eco2.errors import (
    CallTooLarge,
    CallUnsupported,
    Eco2Error,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RetryableError,
    StaleRun,
)
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.metrics.metrics import call_outcome

ATTEMPTS = 3
"""Times that one call may fail before its job is put off. From then on once: no two layers multiply, and the
SDK's own retries are off."""

log = get_logger(__name__)
_backoff = wait_random_exponential(multiplier=0.5, max=10)


class Calls:
    """`timeout`: seconds for one call, from its sending to its last byte."""

    def __init__(self, providers: Providers, fence: Fence, timeout: float, metrics: Metrics) -> None:
        self._providers = providers
        self._fence = fence
        self._timeout = timeout
        self._metrics = metrics

    async def make(
        self, caller: Caller, call: Call[Answer], on_start: Callable[[], None], on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        """The model's reply. `on_start` is called before each attempt, `on_text` for each piece of text.

        Raises `RetryableError` when the last attempt failed, `PermanentError` at once, and `StaleRun` where
        another run has the job.
        """
        tries = _Tries(self._providers.offers(caller.job.model), 1 if caller.retries else ATTEMPTS)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            stop=tries.spent,
            wait=tries.wait,
            before_sleep=partial(self._again, call.kind),
            reraise=True,
        ):
            with attempt:
                return await self._attempt(tries, caller, call, on_start, on_text)
        raise AssertionError("the last attempt raises")

    def _again(self, kind: str, state: RetryCallState) -> None:
        self._metrics.call_retried(kind)
        log.warning("model call failed; trying again", attempt=state.attempt_number, error=str(_error(state)))

    async def _attempt(
        self,
        tries: "_Tries",
        caller: Caller,
        call: Call[Answer],
        on_start: Callable[[], None],
        on_text: Callable[[str], None],
    ) -> Reply[Answer]:
        while True:
            provider = best(tries.offers, tries.failed_at)
            if pause := provider.down_for:
                await asyncio.sleep(pause)
                continue
            try:
                return await self._ask(provider, caller, call, on_start, on_text)
            except WentDown:
                continue
            except (CallTooLarge, CallUnsupported, ProviderAccessDenied) as error:
                if not tries.leave_out(provider):
                    raise
                log.warning("another provider takes the call", refused_by=provider.name, error=str(error))
            except RetryableError:
                tries.failed_at = provider
                raise

    async def _ask(
        self,
        provider: Provider,
        caller: Caller,
        call: Call[Answer],
        on_start: Callable[[], None],
        on_text: Callable[[str], None],
    ) -> Reply[Answer]:
        async with AsyncExitStack() as held:
            async with provider.waiting():
                await held.enter_async_context(provider.slots)
                reservation = await Reservation.acquire(provider, caller, call, held, self._fence)
            with provider.watched(), caller.interrupt.calling():
                on_start()
                return await self._send(provider, reservation, caller, on_text)

    async def _send(
        self,
        provider: Provider,
        reservation: Reservation[Answer],
        caller: Caller,
        on_text: Callable[[str], None],
    ) -> Reply[Answer]:
        outcome, call = "cancelled", reservation.call
        paid: Reply[Answer] | PaidCallFailed | None = None
        began = time.monotonic()

        async def leave() -> None:
            nonlocal began
            patience.reschedule(None)  # waiting for another grant is not the provider's time
            await reservation.confirm()
            patience.reschedule(asyncio.get_running_loop().time() + self._timeout)
            began = time.monotonic()

        try:
            async with asyncio.timeout(self._timeout) as patience:
                paid = reply = await provider.adapter.complete(call, caller.job.id, on_text, leave)
            outcome = "ok"
            return reply
        except TimeoutError as error:
            outcome = "timeout"
            raise ProviderTimeout(f"no answer to the {call.kind} call within {self._timeout:g} s") from error
        except StaleRun:  # nothing was sent
            raise
        except Eco2Error as error:
            outcome = call_outcome(error)
            paid = error if isinstance(error, PaidCallFailed) else None
            if isinstance(error, RateLimited):
                reservation.throttled(error.retry_after)
                self._metrics.rate_limited(provider.name, error.kind)
            raise
        finally:
            seconds = time.monotonic() - began
            name, usage = (paid.model, paid.usage) if paid else (provider.model, None)
            if usage is not None:
                reservation.settle(usage)
            self._metrics.call_ended(call.kind, name, outcome, seconds, usage)


class _Tries:
    """How one call fares: where it may go, where it failed last, and when it has failed often enough.

    Not the call's fault, and so not counted: a limit of the provider, and one that is down while its breaker
    says so or another provider is up. A time-out always counts, since the provider may have been paid for it.
    """

    def __init__(self, offers: Sequence[Provider], attempts: int) -> None:
        self.offers = tuple(offers)
        self.failed_at: Provider | None = None
        self._attempts = attempts
        self._failures = 0

    def leave_out(self, provider: Provider) -> bool:
        """The provider will never take the call; False if no other is left."""
        left = tuple(offer for offer in self.offers if offer is not provider)
        self.offers = left or self.offers
        return bool(left)

    def spent(self, state: RetryCallState) -> bool:
        error = _error(state)
        down = not any(offer.up for offer in self.offers) or (
            isinstance(error, ProviderDown) and self._elsewhere
        )
        paid = isinstance(error, ProviderTimeout)  # perhaps
        self._failures += paid or not (down or isinstance(error, RateLimited))
        return self._failures >= self._attempts

    def wait(self, state: RetryCallState) -> float:
        """Seconds until the next try. What one provider asks for does not hold at another."""
        error = _error(state)
        asked = error.retry_after if isinstance(error, ProviderError) and not self._elsewhere else None
        return max(asked or 0.0, _backoff(state))

    @property
    def _elsewhere(self) -> bool:
        return any(offer.up for offer in self.offers if offer is not self.failed_at)


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None
