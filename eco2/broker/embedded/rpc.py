"""Request and reply in memory: a request is a message in the service's queue, the reply goes to its sender.

A copy of a request may go directly to the process that answered last; under chaos it comes too late.

Guarantees: a requester gets at most one reply; a request stays in the queue until it was answered, so that
the next elected process gets the requests that the last one left open.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from eco2.broker.embedded.channel import Channel
from eco2.broker.embedded.queues import Message, Queue, QueueDelivery
from eco2.errors import DeliveryLost, NoReply
from eco2.log import get_logger
from eco2.ports import Express

Handler = Callable[[bytes], Awaitable[bytes]]

MAX_REQUESTS = 1000
"""Requests that one process handles side by side, at most."""

_log = get_logger(__name__)


Answered = dict[str, Express]
"""Where copies go, by queue: to the process that answered last."""


async def request(
    queue: Queue, channel: Channel, body: bytes, timeout: float, answered: Answered, express: bool
) -> bytes:
    """The reply to `body`. Raises `NoReply` after `timeout` seconds, or when the connection goes."""
    loop = asyncio.get_running_loop()
    reply: asyncio.Future[bytes] = loop.create_future()

    def arrive(answer: bytes, by: Express | None) -> None:
        if not reply.done() and not queue.dice.lost_live():
            if by is not None:
                answered[queue.name] = by
            reply.set_result(answer)

    def copy(to: Express) -> None:
        if (answer := to(body)) is not None:
            arrive(answer, to)

    if express and (to := answered.get(queue.name)) is not None and not queue.dice.lost_live():
        loop.call_later(queue.dice.delay("copy"), copy, to)
    if not queue.dice.lost_live():
        queue.put(Message(body, "", reply=arrive, expires=loop.time() + timeout))
    channel.on_close(reply.cancel)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.wait((reply,))
    except TimeoutError:
        raise NoReply(f"no reply from {queue.name} within {timeout} s: ask again") from None
    finally:
        channel.forget(reply.cancel)
    if reply.cancelled():
        raise NoReply(f"the connection went before {queue.name} replied: ask again")
    return reply.result()


class RequestHandler:
    """Handles requests side by side, as tasks of `tasks`, until it is closed."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._handling: set[asyncio.Task[None]] = set()

    def handle(self, delivery: QueueDelivery, handler: Handler, express: Express | None) -> None:
        """Answers one request, in the background."""
        task = self._tasks.create_task(_answer(delivery, handler, express))
        self._handling.add(task)
        task.add_done_callback(self._handling.discard)

    def close(self) -> None:
        """Gives up what is being handled; the next elected process gets it."""
        for task in self._handling:
            task.cancel()


async def _answer(delivery: QueueDelivery, handler: Handler, express: Express | None) -> None:
    try:
        reply = await handler(delivery.body)
    except Exception:  # noqa: BLE001 - the port's promise: a handler that raises sends no reply, and serves on
        _log.exception("request not answered: its handler failed")
    else:
        if delivery.held:
            delivery.reply(reply, express)
    with suppress(DeliveryLost):
        await delivery.ack()
