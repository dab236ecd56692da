"""What the event streams of the process draw from: the view, live text, and the wake-ups for both."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from eco2.delta import DELTA_TOPIC, decode_deltas
from eco2.gateway.config import GatewayConfig
from eco2.gateway.followers import Followers, StreamCounts
from eco2.gateway.live import LiveText
from eco2.journal.journal import Journal
from eco2.journal.state import JobState
from eco2.ports import PubSub


class Feeds:
    """`stop`: set when the process is going to stop; every stream is woken then."""

    def __init__(self, journal: Journal, stop: asyncio.Event, config: GatewayConfig) -> None:
        self.view = journal.view
        self.live = LiveText()
        self.followers = Followers()
        self.streams = StreamCounts(config.streams_per_job, config.streams_per_owner, config.retry_after)
        self.stop = stop

    @asynccontextmanager
    async def flowing(self, live: PubSub) -> AsyncGenerator[None, None]:
        """Listens to the journal's view and to live text while the block runs."""
        self.view.observe(self._changed)
        self.view.observe_resets(self._forget)
        subscription = live.subscribe(DELTA_TOPIC, self._heard)
        async with asyncio.TaskGroup() as group:
            waker = group.create_task(self._wake_on_stop())
            yield
            waker.cancel()
        await subscription.cancel()

    def _changed(self, state: JobState) -> None:
        self.live.forget(state)
        self.followers.wake(state.job)

    def _forget(self) -> None:
        """The journal is another one: every stream ends, and its client learns more when it comes back."""
        self.live.clear()
        self.followers.wake_all()

    def _heard(self, _: str, body: bytes) -> None:
        for delta in decode_deltas(body):
            if self.live.take(delta, self.view.get(delta.job)):
                self.followers.wake(delta.job)

    async def _wake_on_stop(self) -> None:
        await self.stop.wait()
        self.followers.wake_all()
