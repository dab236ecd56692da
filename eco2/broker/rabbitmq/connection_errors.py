"""Maps the errors that aiormq raises for a lost channel or connection.

aiormq rejects whatever is pending with the reason that ended the connection. That may be one of its own
errors, a bare `Exception`, or a `CancelledError` although no task was cancelled.
"""

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, ParamSpec

from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelClosed, ConnectionClosed
from aiormq import spec

from eco2.cancellation import cancellations
from eco2.errors import Eco2Error, RetryableError
from eco2.log import get_logger

log = get_logger(__name__)

Arguments = ParamSpec("Arguments")


@contextmanager
def map_connection_errors(error: type[RetryableError], message: str) -> Iterator[None]:
    """Raises `error(message)` when the channel or connection goes inside; other errors pass."""
    before = cancellations()
    try:
        yield
    except asyncio.CancelledError as reason:
        if cancellations() > before:
            raise
        raise error(message) from reason  # its close callbacks, and the link's log, have the broker's reason
    except Exception as reason:
        if cancellations() > before:
            raise asyncio.CancelledError from reason
        if not is_connection_error(reason):
            raise
        raise error(f"{message} ({reason_of(reason)})") from reason


def is_connection_error(reason: Exception) -> bool:
    """True if aiormq raises `reason` when a channel or connection is gone."""
    if isinstance(reason, Eco2Error):
        return False
    return isinstance(reason, (*CONNECTION_EXCEPTIONS, TimeoutError)) or type(reason) is Exception


class Close(NamedTuple):
    """The broker's reason for closing a connection or channel. `code`: AMQP's, such as 320; 0 if unknown."""

    code: int
    text: str


def closing(reason: BaseException | None) -> Close | None:
    """Returns why the broker closed a connection, if `reason` stems from that."""
    if reason is None:
        return None
    for frame, _ in traceback.walk_tb(reason.__traceback__):
        # aiormq names only the class of a Close that answers Connection.Open; the text is in the frame alone.
        if isinstance(answer := frame.f_locals.get("frame"), spec.Connection.Close):
            return Close(answer.reply_code or 0, answer.reply_text or "")
    if isinstance(reason, ConnectionClosed) and reason.args:
        code = reason.args[0] if len(reason.args) > 1 and isinstance(reason.args[0], int) else 0
        return Close(code, str(reason.args[-1]))
    return None


def reason_of(reason: BaseException) -> str:
    """Says in one line why a channel or connection is gone, in the broker's words where it gave any."""
    if (closed := closing(reason)) is not None and closed.text:
        return f"{closed.code} {closed.text}" if closed.code else closed.text
    if isinstance(reason, ChannelClosed) and reason.args:
        return str(reason.args[-1])
    return " ".join(str(reason).split()) or type(reason).__name__


class ConnectionScope:
    """Ends what waits on a channel or connection as soon as that is gone.

    aiormq rejects its own futures then, but a task that waits for room in its write queue would wait without
    end.
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
