"""Processes that can stand still: nothing of a frozen one runs, while the broker and all others go on.

As when a machine is paused, swaps, or its loop is blocked: timers are late, answers stay away, and what
arrived meanwhile is handled afterwards, in order. Each process is a context; `FreezableLoop` holds back what
belongs to a frozen one.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Unpack

from eco2.broker.embedded import Embedded, Server
from eco2.broker.embedded.subscription import EmbeddedSubscription, EmbeddedTail
from eco2.broker.topology import Topology
from eco2.ports import Delivery, Record, Start, ignore
from eco2.testing.clock import Arguments, VirtualLoop
from tests.support.world import Process, World

HEARTBEAT = 10.0
"""Seconds of standing still after which the broker closes the connection."""


class Freezer:
    """One process's share of the loop. `context`: what belongs to it runs in a copy of this."""

    def __init__(self) -> None:
        self.frozen = False
        self.context = copy_context()
        self.context.run(_owner.set, self)
        self._held: deque[Callable[[], object]] = deque()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        """What was held back runs now, in its order."""
        self.frozen = False
        loop = asyncio.get_running_loop()
        while self._held:
            loop.call_soon(self._held.popleft(), context=Context())

    def enter(self, callback: Callable[..., object], *args: object) -> None:
        """Somebody else calls into the process."""
        self.run(partial(self.context.copy().run, callback, *args))

    def run(self, step: Callable[[], object]) -> None:
        """Does the step, or holds it back while the process stands still."""
        if self.frozen:
            self._held.append(partial(self.run, step))
        else:
            step()


_owner: ContextVar[Freezer] = ContextVar("freezer")


class FreezableLoop(VirtualLoop):
    """A virtual loop that knows which process a callback belongs to; the broker's belong to nobody."""

    def call_soon(
        self,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        step = _Step(callback, args, context)
        step.handle = super().call_soon(step.begin, context=Context())
        return step.handle

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Arguments]], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        step = _Step(callback, args, context)
        step.handle = handle = super().call_at(when, step.begin, context=Context())
        return handle


class _Step:
    """A callback of a process. It may be cancelled while it is held back."""

    handle: asyncio.Handle

    def __init__(
        self, callback: Callable[..., object], args: tuple[object, ...], context: Context | None
    ) -> None:
        self._callback = callback
        self._args = args
        if _of_broker(callback):
            context = Context()
        self._context = copy_context() if context is None else context  # an empty one is false

    def begin(self) -> None:
        freezer = self._context.get(_owner)
        if freezer is None:
            self._do()
        else:
            freezer.run(self._do)

    def _do(self) -> None:
        if not self.handle.cancelled():
            self._context.run(self._callback, *self._args)


def _of_broker(callback: Callable[..., object]) -> bool:
    function = callback.func if isinstance(callback, partial) else callback
    return type(getattr(function, "__self__", None)).__module__.startswith("eco2.broker.")


class Freezable(Embedded):
    """A connection to the embedded broker of a process that may stand still."""

    def __init__(self, topology: Topology, server: Server) -> None:
        super().__init__(topology, server)
        self.freezer = Freezer()

    async def freeze(self, seconds: float) -> None:
        """The process stands still for so long; the broker takes it for dead behind the heartbeat."""
        self.freezer.freeze()
        await asyncio.sleep(min(seconds, HEARTBEAT))
        if seconds > HEARTBEAT:
            self._disconnect()
            await asyncio.sleep(seconds - HEARTBEAT)
        self.freezer.thaw()
        if seconds > HEARTBEAT and self._channel is None and self._connects:
            if self._reconnect is not None:
                self._reconnect.cancel()  # of a disruption while it stood still
            self.freezer.enter(self._connect)

    def consume(
        self, queue: str, prefetch: int, on_delivery: Callable[[Delivery], None]
    ) -> EmbeddedSubscription:
        return super().consume(queue, prefetch, partial(self.freezer.enter, on_delivery))

    def tail(
        self, start: Start, on_record: Callable[[Record], None], on_replaced: Callable[[], None] = ignore
    ) -> EmbeddedTail:
        enter = self.freezer.enter
        return super().tail(start, partial(enter, on_record), partial(enter, on_replaced))

    def subscribe(self, pattern: str, on_message: Callable[[str, bytes], None]) -> EmbeddedSubscription:
        return super().subscribe(pattern, partial(self.freezer.enter, on_message))


class Freezing(World):
    """A world whose processes can stand still."""

    def connection(self) -> Freezable:
        return Freezable(self.topology, self.server)

    def context(self, process: Process) -> Context:
        return freezable(process).freezer.context.copy()

    async def freeze(self, process: Process, seconds: float) -> None:
        """The process stands still for so long."""
        await freezable(process).freeze(seconds)


def freezable(process: Process) -> Freezable:
    """The process's connection, by which it can be frozen."""
    assert isinstance(process.broker, Freezable)
    return process.broker
