"""Whether this process is the leader, and since when without a break.

A broker elects by handing out requests, and does not say when it elects another: a process that lost its
connection for a moment may be handed requests again, and between them a second leader has granted. So each
term stands on a request of the leader to itself that it leaves unanswered. As long as it is open, the broker
has handed it to nobody else, and so nothing behind it either. Whatever ends it ends the term: the connection
goes (the asking fails), a successor answers it, or it comes here a second time.
"""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from eco2.errors import RetryableError
from eco2.log import get_logger
from eco2.ports import Rpc
from eco2.quota.message import Office, encode

ARRIVAL = 1.0
"""Seconds for the request to come back to its sender, if that is the leader."""
TENURE = 600.0
"""Seconds after which a term ends by itself: brokers take back what is unanswered for half an hour. The next
begins with the next request, and costs what a takeover costs; while nobody calls there is none."""

log = get_logger(__name__)


class Seat:
    """Stands for office for ever, each time `want` says that there is something to lead.

    `prepare()` precedes each candidacy; `begin(epoch)` and `end()` are called in turn, from the loop.
    """

    def __init__(
        self,
        rpc: Rpc,
        service: str,
        prepare: Callable[[], Awaitable[None]],
        begin: Callable[[str], None],
        end: Callable[[], None],
    ) -> None:
        self._rpc = rpc
        self._service = service
        self._prepare = prepare
        self._begin = begin
        self._end = end
        self._wanted = asyncio.Event()
        self._token = ""
        self._taken: asyncio.Event | None = None
        self._left = asyncio.Event()

    def want(self) -> None:
        """A request came, so this process may be the leader."""
        self._wanted.set()

    async def hold(self, office: Office) -> None:
        """Handles the leader's own request: returns when the term that stands on it is over."""
        if office.token != self._token or self._taken is None:
            return  # of another process, or of a term that is over
        if self._taken.is_set():
            self._leave()
            return
        self._taken.set()
        self._begin(self._token)
        await self._left.wait()

    async def run(self) -> None:
        """Takes office when it can, until it is cancelled."""
        try:
            while True:
                await self._wanted.wait()
                self._wanted.clear()
                await self._prepare()
                await self._stand()
        finally:
            self._leave()

    async def _stand(self) -> None:
        """One candidacy and, if it succeeds, its term."""
        self._token, self._taken, self._left = uuid.uuid4().hex, asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            asked = group.create_task(self._ask())
            arrival = group.create_task(self._taken.wait())
            await asyncio.wait((asked, arrival), timeout=ARRIVAL, return_when=asyncio.FIRST_COMPLETED)
            if self._taken.is_set():
                await asked
            arrival.cancel()
            asked.cancel()
        self._leave()

    async def _ask(self) -> None:
        body = encode(Office(token=self._token))
        try:
            await self._rpc.request(self._service, body, TENURE)
        except RetryableError as error:
            log.info("quota term over", why=str(error))

    def _leave(self) -> None:
        taken, self._taken = self._taken, None
        self._left.set()
        if taken is not None and taken.is_set():
            self._end()
