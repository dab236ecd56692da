"""What aiormq raises when a channel or connection goes, told apart from everything else.

aiormq rejects whatever is pending with the reason that ended the connection. That may be one of its own
errors, a bare `Exception`, or a `CancelledError` although nobody cancelled us.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import ParamSpec

from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from eco2.errors import Eco2Error, RetryableError
from eco2.log import get_logger

log = get_logger(__name__)

Arguments = ParamSpec("Arguments")


@contextmanager
def lost_as(error: type[RetryableError], message: str) -> Iterator[None]:
    """Raises `error(message)` when the channel or connection goes inside; other errors pass."""
    before = _cancellations()
    try:
        yield
    except asyncio.CancelledError as reason:
        if _cancellations() > before:
            raise
        raise error(message) from reason
    except Exception as reason:
        if _cancellations() > before:
            raise asyncio.CancelledError from reason
        if not is_loss(reason):
            raise
        raise error(f"{message} ({reason})" if str(reason) else message) from reason


def is_loss(reason: Exception) -> bool:
    """True if `reason` is how aiormq says that a channel or connection is gone."""
    if isinstance(reason, Eco2Error):
        return False
    return isinstance(reason, (*CONNECTION_EXCEPTIONS, TimeoutError)) or type(reason) is Exception


def raise_if_cancelled() -> None:
    """Raises the CancelledError of the current task that a library has swallowed, if it did.

    aiormq turns it into the error of a connection that goes in the same moment, `wait_for` of Python 3.11
    drops it when what it waits for is done. A loop for ever has to look itself, or stopping hangs.
    """
    if _cancellations():
        raise asyncio.CancelledError


def _cancellations() -> int:
    """How often the current task was asked to end."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


class Lifetime:
    """Ends what waits on a channel or connection as soon as that is gone.

    aiormq rejects its own futures then, but whoever waits for room in its write queue waits for ever.
    """

    def __init__(self) -> None:
        self._over = False
        self._scopes: set[asyncio.Timeout] = set()

    @asynccontextmanager
    async def scope(self) -> AsyncIterator[None]:
        """Raises TimeoutError inside when the lifetime ends, at once if it has ended."""
        async with asyncio.timeout(0 if self._over else None) as scope:
            self._scopes.add(scope)
            try:
                yield
            finally:
                self._scopes.discard(scope)

    def end(self, *_: object) -> None:
        """It is gone; may be called again, and by aio-pika's notices."""
        self._over = True
        now = asyncio.get_running_loop().time()
        while self._scopes:
            self._scopes.pop().reschedule(now)


def call(callback: Callable[Arguments, object], *args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
    """Calls a subscriber's callback; its error is logged, since it must not end what others consume."""
    try:
        callback(*args, **kwargs)
    except Exception:
        log.exception("A subscriber's callback failed; its message stays as the callback left it")
