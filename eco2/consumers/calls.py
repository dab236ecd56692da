"""Model calls of all jobs of one process: bounded in number and time, with the one layer of retries.

What it guarantees: a call is sent only while its run is the job's current one; while the provider is down,
calls wait for it instead of failing, and a limit of the provider is waited for, however often it takes.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from tenacity.wait import wait_random_exponential

from eco2.call import Answer, Call, NoAnswer, Reply
from eco2.consumers.breaker import Breaker
from eco2.consumers.fence import Fence
from eco2.consumers.run import Run
from eco2.errors import (
    Eco2Error,
    ProviderClosed,
    ProviderDown,
    ProviderError,
    RateLimited,
    RetryableError,
)
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.ports import Model, Models

ATTEMPTS = 3
"""Times that one call may fail before its job is put off. From then on once: no two layers multiply, and the
SDK's own retries are off."""

log = get_logger(__name__)
_backoff = wait_random_exponential(multiplier=0.5, max=10)


class Calls:
    """`concurrency`: calls in flight at once. `timeout`: seconds for one call."""

    def __init__(
        self, models: Models, fence: Fence, concurrency: int, timeout: float, metrics: Metrics
    ) -> None:
        self._models = models
        self._fence = fence
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = timeout
        self._metrics = metrics
        self._breakers: defaultdict[str | None, Breaker] = defaultdict(Breaker)

    async def make(
        self, run: Run, call: Call[Answer], on_start: Callable[[], None], on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        """The model's reply. `on_start` is called before each attempt, `on_text` for each piece of text.

        Raises `RetryableError` when the last attempt failed, `PermanentError` at once.
        """
        model = self._models.get(run.job.model)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            stop=_Spent(1 if run.retries else ATTEMPTS, lambda: self._breakers[run.job.model].closed),
            wait=_wait,
            before_sleep=_log_retry,
            reraise=True,
        ):
            with attempt:
                return await self._attempt(model, run, call, on_start, on_text)
        raise AssertionError("the last attempt raises")

    async def _attempt(
        self,
        model: Model,
        run: Run,
        call: Call[Answer],
        on_start: Callable[[], None],
        on_text: Callable[[str], None],
    ) -> Reply[Answer]:
        while True:
            await self._provider_up(run.job.model)
            async with self._slots:
                await self._fence.passed(run)
                if self._pause(run.job.model):
                    continue  # it went down while we waited for a slot
                with self._watched(run.job.model), run.interrupt.calling():
                    on_start()
                    return await self._send(model, run, call, on_text)

    async def _provider_up(self, model: str | None) -> None:
        while True:
            pause = self._pause(model)
            if not pause:
                return
            await asyncio.sleep(pause)

    def _pause(self, model: str | None) -> float:
        return self._breakers[model].wait(asyncio.get_running_loop().time())

    @contextmanager
    def _watched(self, model: str | None) -> Iterator[None]:
        """Tells the breaker how the call inside ended."""
        breakers, now = self._breakers, asyncio.get_running_loop().time
        breakers[model] = breakers[model].began()
        try:
            yield
        except ProviderDown:
            self._breaker_moved(model, breakers[model].failed(now()))
            raise
        except ProviderClosed:
            self._breaker_moved(model, breakers[model].shut(now()))
            raise
        except (NoAnswer, RateLimited):  # it did answer
            self._breaker_moved(model, breakers[model].succeeded())
            raise
        except BaseException:
            self._breaker_moved(model, breakers[model].abandoned())
            raise
        self._breaker_moved(model, breakers[model].succeeded())

    def _breaker_moved(self, model: str | None, breaker: Breaker) -> None:
        before, self._breakers[model] = self._breakers[model], breaker
        if before.closed != breaker.closed:
            log.warning("the provider is back" if breaker.closed else "the provider is down: its calls wait")
        self._metrics.breaker(model or "default", closed=breaker.closed)

    async def _send(
        self, model: Model, run: Run, call: Call[Answer], on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        began = time.monotonic()
        outcome = "cancelled"
        paid: Reply[Answer] | NoAnswer | None = None
        try:
            async with asyncio.timeout(self._timeout):
                paid = reply = await model.complete(call, run.job.id, on_text)
            outcome = "ok"
            return reply
        except TimeoutError as error:
            outcome = "timeout"
            raise ProviderError(f"no answer to the {call.kind} call within {self._timeout:g} s") from error
        except Eco2Error as error:
            outcome = type(error).__name__
            paid = error if isinstance(error, NoAnswer) else None
            raise
        finally:
            seconds = time.monotonic() - began
            name, usage = (paid.model, paid.usage) if paid else (run.job.model or "default", None)
            self._metrics.call_ended(call.kind, name, outcome, seconds, usage)


class _Spent:
    """Says when a call has failed often enough. Not the call's fault, and so not counted: a limit of the
    provider, and a provider that is down (then the breaker is open)."""

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
