"""Model calls of all jobs of one process: where each goes, and the one layer of retries.

The order: a provider that is up → a slot → a grant of the minute's budget → the fence → the first byte.
Guarantees: a call is sent only while its run is the job's current one; a job that names a model gets that one
and waits for it, and any other goes where it is expected to wait least; while a provider is down, calls go
elsewhere or wait instead of failing; a provider that refuses a call for its own reasons (a key, a size), or
whose price is too high for the job, is not used for that call again while another is left; and a call waits
for a limit of the provider, however often it is reached.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, nullcontext
from functools import partial

from eco2.call import Answer, Call, PaidCallFailed, Reply
from eco2.calls.caller import Caller, Output
from eco2.calls.provider import BreakerOpened, Provider
from eco2.calls.reservation import Fence, Reservation
from eco2.errors import (
    BudgetExceeded,
    CallTooLarge,
    CallUnsupported,
    Eco2Error,
    PermanentError,
    ProviderAccessDenied,
    ProviderDown,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    RetryableError,
    StaleRun,
)
from eco2.job import Priority
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.metrics.metrics import call_outcome
from eco2.retry import Backoff

ATTEMPTS = 3
"""Times that one call may fail before its job is put off. From then on once: no two layers multiply, and the
SDK's own retries are off."""
BACKOFF = Backoff(0.5, 10.0)

log = get_logger(__name__)


class Router:
    """`timeout`: seconds for one call, from its sending to its last byte; nothing else bounds it.

    `default`: the model of a job that names none; None: whichever provider is best at the moment.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        fence: Fence,
        timeout: float,
        metrics: Metrics,
        default: str | None = None,
    ) -> None:
        self._candidates: dict[str | None, tuple[Provider, ...]] = {
            provider.model: tuple(other for other in providers if other.model == provider.model)
            for provider in providers
        }
        self._candidates[None] = tuple(providers)
        self._default = default
        self._fence = fence
        self._timeout = timeout
        self._metrics = metrics

    async def call(self, caller: Caller, call: Call[Answer], output: Output) -> Reply[Answer]:
        """Makes the call, with retries, and returns the model's reply.

        Raises `RetryableError` when the last attempt failed, `PermanentError` at once, as for a model that no
        provider has, and `StaleRun` where another run has the job.
        """
        wanted, embeds = call.model or caller.job.model or self._default, bool(call.texts)
        offered = self._candidates.get(wanted, ())
        candidates = tuple(provider for provider in offered if provider.embeds == embeds)
        if not candidates:
            able = {one.model for one in self._candidates[None] if one.embeds == embeds}
            known = ", ".join(sorted(able)) or "none here; a provider for it is missing in the settings"
            raise PermanentError(
                f"model {wanted!r} is not supported for the call {call.kind!r}; use one of: {known}",
                "UNSUPPORTED_MODEL",
            )
        failed_at: Provider | None = None
        tries = failures = 0
        while True:
            provider = best(candidates, failed_at, caller.job.priority)
            if pause := provider.breaker.wait(asyncio.get_running_loop().time()):
                with caller.scope.waiting():
                    await asyncio.sleep(pause)
                continue
            try:
                return await self._attempt(provider, caller, call, output)
            except BreakerOpened:
                continue
            except (BudgetExceeded, CallTooLarge, CallUnsupported, ProviderAccessDenied) as error:
                any_price = caller.allowance is None
                candidates = tuple(
                    other for other in candidates if other is not provider and (any_price or other.is_priced)
                )
                if not candidates:
                    raise
                log.warning("another provider takes the call", refused_by=provider.name, error=str(error))
                continue
            except RetryableError as error:
                failed_at = provider
                elsewhere = any(other.up for other in candidates if other is not provider)
                failures += counts(error, is_down=not (elsewhere or provider.up), elsewhere=elsewhere)
                if failures >= (1 if caller.retries else ATTEMPTS):
                    raise
                pause = BACKOFF.pause(tries)
                if isinstance(error, ProviderError) and not elsewhere:
                    pause = max(pause, error.retry_after or 0.0)
                tries += 1
                self._metrics.call_retried(call.kind)
                log.warning("model call failed; trying again", attempt=tries, error=str(error))
            await asyncio.sleep(pause)

    async def _attempt(
        self, provider: Provider, caller: Caller, call: Call[Answer], output: Output
    ) -> Reply[Answer]:
        """Waits for the call's turn at the provider, and sends it once."""
        async with AsyncExitStack() as held:
            with caller.scope.waiting():
                async with provider.waiting(caller.job.priority):
                    async with provider.next_batch if caller.job.priority == "batch" else nullcontext():
                        await held.enter_async_context(provider.slots)
                    await caller.scope.checkpoint(begins=True)
                    output.emitted = 0
                    reservation = Reservation(provider, caller, call, output, self._fence)
                    held.callback(reservation.release)
                    await reservation.acquire()
            with provider.guard(), caller.scope.in_call():
                return await self._send(provider, reservation, caller.job.id, output)

    async def _send(
        self, provider: Provider, reservation: Reservation[Answer], job_id: str, output: Output
    ) -> Reply[Answer]:
        outcome, call = "cancelled", reservation.call
        paid: Reply[Answer] | PaidCallFailed | None = None
        began = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout) as timer:
                gate = partial(reservation.confirm, timer, self._timeout)
                paid = reply = await provider.adapter.complete(call, job_id, output.emit, gate)
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
            seconds = time.monotonic() - (reservation.sent_at or began)
            name, usage = (paid.model, paid.usage) if paid else (provider.model, None)
            if usage is not None:
                reservation.settle(usage)
            self._metrics.call_ended(call.kind, name, outcome, seconds, usage)


def best(
    candidates: Sequence[Provider], avoid: Provider | None = None, priority: Priority = "interactive"
) -> Provider:
    """Chooses the provider with the shortest expected wait; among equals the first.

    `avoid`: where the call has just failed; it goes there only if no other takes calls at present. If all are
    down: the one that may be tried first.
    """
    if len(candidates) == 1:  # as in most installations
        return candidates[0]
    now = asyncio.get_running_loop().time()
    ranks = [
        (
            down := provider.breaker.wait(now) > 0,
            not down and provider is avoid,
            provider.expected_wait(now, priority),
        )
        for provider in candidates
    ]
    return candidates[ranks.index(min(ranks))]


def counts(error: RetryableError, *, is_down: bool, elsewhere: bool) -> bool:
    """Decides whether a failure is the call's fault, and so one of its `ATTEMPTS`.

    A limit of the provider is not. Nor is a provider that is down, where no candidate takes calls at present
    (`is_down`) or another one does (`elsewhere`). A time-out always counts: the provider may have been paid.
    """
    if isinstance(error, ProviderTimeout):
        return True
    return not (is_down or isinstance(error, RateLimited) or (isinstance(error, ProviderDown) and elsewhere))
