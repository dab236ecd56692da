"""Model calls of all jobs of one process: bounded in number and time, with the one layer of retries.

The order: a provider that is up → a slot → a grant of the minute's budget → the fence → the first byte. What
it guarantees: a call is sent only while its run is the job's current one; while a provider is down, calls go
elsewhere or wait instead of failing; and a limit of the provider is waited for, however often it takes.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from eco2.call import Answer, Call, NoAnswer, Reply
from eco2.consumers.fence import Fence
from eco2.consumers.provider import Provider, Providers, best
from eco2.consumers.run import Run
from eco2.consumers.turn import Turn
from eco2.errors import Eco2Error, ProviderError, RateLimited, RetryableError
from eco2.log import get_logger
from eco2.metrics import Metrics

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
        self, run: Run, call: Call[Answer], on_start: Callable[[], None], on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        """The model's reply. `on_start` is called before each attempt, `on_text` for each piece of text.

        Raises `RetryableError` when the last attempt failed, `PermanentError` at once.
        """
        offers = self._providers.offers(run.job.model)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            stop=_Spent(1 if run.retries else ATTEMPTS, lambda: any(offer.up for offer in offers)),
            wait=_wait,
            before_sleep=_log_retry,
            reraise=True,
        ):
            with attempt:
                return await self._attempt(offers, run, call, on_start, on_text)
        raise AssertionError("the last attempt raises")

    async def _attempt(
        self,
        offers: Sequence[Provider],
        run: Run,
        call: Call[Answer],
        on_start: Callable[[], None],
        on_text: Callable[[str], None],
    ) -> Reply[Answer]:
        while True:
            provider = best(offers)
            if pause := provider.down_for:
                await asyncio.sleep(pause)
                continue
            async with AsyncExitStack() as held:
                with provider.waiting():
                    await held.enter_async_context(provider.slots)
                    turn = await Turn.of(provider, run, call, held)
                    await self._fence.passed(run)
                if provider.down_for:
                    continue  # it went down while we waited
                with provider.watched(), run.interrupt.calling():
                    on_start()
                    return await self._send(provider, turn, run, on_text)

    async def _send(
        self, provider: Provider, turn: Turn[Answer], run: Run, on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        began = time.monotonic()
        outcome, call = "cancelled", turn.call
        paid: Reply[Answer] | NoAnswer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                paid = reply = await provider.adapter.complete(call, run.job.id, on_text, turn.taken)
            outcome = "ok"
            return reply
        except TimeoutError as error:
            outcome = "timeout"
            raise ProviderError(f"no answer to the {call.kind} call within {self._timeout:g} s") from error
        except Eco2Error as error:
            outcome = type(error).__name__
            paid = error if isinstance(error, NoAnswer) else None
            if isinstance(error, RateLimited):
                turn.pushed_back(error.retry_after)
            raise
        finally:
            seconds = time.monotonic() - began
            name, usage = (paid.model, paid.usage) if paid else (provider.model, None)
            if usage is not None:
                turn.counted(usage)
            self._metrics.call_ended(call.kind, name, outcome, seconds, usage)


class _Spent:
    """Says when a call has failed often enough. Not the call's fault, and so not counted: a limit of the
    provider, and providers that are all down (then their breakers are open)."""

    def __init__(self, attempts: int, up: Callable[[], bool]) -> None:
        self._attempts = attempts
        self._up = up
        self._failures = 0

    def __call__(self, state: RetryCallState) -> bool:
        counts = not isinstance(_error(state), RateLimited) and self._up()
        self._failures += counts
        return self._failures >= self._attempts


def _error(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _wait(state: RetryCallState) -> float:
    error = _error(state)
    asked = error.retry_after if isinstance(error, ProviderError) else None
    return max(asked or 0.0, _backoff(state))


def _log_retry(state: RetryCallState) -> None:
    log.warning("model call failed; trying again", attempt=state.attempt_number, error=str(_error(state)))
