"""Model calls of all jobs of one process: bounded in number and time, with the one layer of retries."""

import asyncio
import time
from collections.abc import Callable

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from eco2.call import Answer, Call, NoAnswer, Reply
from eco2.consumers.run import Run
from eco2.errors import Eco2Error, ProviderError, RetryableError
from eco2.log import get_logger
from eco2.metrics import Metrics
from eco2.ports import Model, Models

ATTEMPTS = 3
"""Times that one call is sent at the most; the SDK's own retries are off, so no two layers multiply."""

log = get_logger(__name__)
_backoff = wait_random_exponential(multiplier=0.5, max=10)


class Calls:
    """`concurrency`: calls in flight at once. `timeout`: seconds for one call."""

    def __init__(self, models: Models, concurrency: int, timeout: float, metrics: Metrics) -> None:
        self._models = models
        self._slots = asyncio.Semaphore(concurrency)
        self._timeout = timeout
        self._metrics = metrics

    async def make(
        self, run: Run, call: Call[Answer], on_start: Callable[[], None], on_text: Callable[[str], None]
    ) -> Reply[Answer]:
        """The model's reply. `on_start` is called before each attempt, `on_text` for each piece of text.

        Raises `RetryableError` when the last attempt failed, `PermanentError` at once.
        """
        model = self._models.get(run.job.model)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(RetryableError),
            stop=stop_after_attempt(ATTEMPTS),
            wait=_wait,
            before_sleep=_log_retry,
            reraise=True,
        ):
            with attempt:
                async with self._slots:
                    await run.interrupt.may_begin()
                    on_start()
                    with run.interrupt.calling():
                        return await self._send(model, run, call, on_text)
        raise AssertionError("the last attempt raises")

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


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after if isinstance(error, ProviderError) else None
    return max(asked or 0.0, _backoff(state))


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log.warning("model call failed; trying again", attempt=state.attempt_number, error=str(error))
