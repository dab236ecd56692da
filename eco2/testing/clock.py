"""Virtual time for tests: an hour of sleeps in milliseconds, in the order that real time would give.

The loop's clock stands still while anything can run and jumps to the next timer when nothing can. A test that
waits for something that cannot come any more fails at once with `Deadlock`, instead of hanging.

Use `@virtual` on an async test, or `run_virtual(coro)`. `VirtualClock.now` is the wall clock that follows;
pass it wherever the program takes a `clock`. Threads (`asyncio.to_thread`) are waited for in real time while
virtual time stands still. Real sockets are refused: their peers do not live in virtual time.
"""

import asyncio
import functools
import math
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack

Params = ParamSpec("Params")
Result = TypeVar("Result")
Arguments = TypeVarTuple("Arguments")

EPOCH = 1_800_000_000.0
"""Unix seconds at the start of every virtual run."""


class Deadlock(AssertionError):
    """Nothing can run, and no timer is set: what the test waits for cannot happen any more."""


class VirtualClock:
    """The wall clock of a virtual run."""

    @staticmethod
    def now() -> float:
        """Unix seconds in the running virtual loop."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, VirtualLoop):
            raise TypeError("VirtualClock.now() outside of a virtual loop: decorate the test with @virtual")
        return EPOCH + loop.time()


class _Jump(selectors.DefaultSelector):
    """Instead of waiting for `timeout` seconds, lets them have passed."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0
        self.threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        if self.threads:
            return super().select(None)
        if timeout is None:
            raise Deadlock(f"nothing can run and no timer is set; waiting:\n{_waiting()}")
        self.elapsed += timeout
        return []


def _waiting() -> str:
    return "\n".join(
        f"  {task.get_name()} in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        for task in asyncio.all_tasks()
        for frame in task.get_stack(limit=1)
    )


class VirtualLoop(asyncio.SelectorEventLoop):
    """A selector event loop with virtual time, starting at 0."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return self._jump.elapsed

    @property
    def _clock_resolution(self) -> float:
        """Seconds by which the loop runs a timer early: the least there are.

        A real clock moves on meanwhile. Here a task that waits until a time, and is woken before it, would
        wait again at the same time for ever.
        """
        return math.ulp(self.time())

    @_clock_resolution.setter
    def _clock_resolution(self, _: float) -> None:
        """Leaves out what the loop sets: the resolution of the machine's clock."""

    def run_in_executor(
        self,
        executor: Executor | None,
        func: Callable[[Unpack[Arguments]], Result],
        *args: *Arguments,
    ) -> asyncio.Future[Result]:
        future = super().run_in_executor(executor, func, *args)
        self._jump.threads += 1
        future.add_done_callback(self._thread_done)
        return future

    async def shutdown_default_executor(self, *args: Any) -> None:
        self._jump.threads += 1  # it joins the executor's threads in a thread of its own
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._jump.threads -= 1

    def _thread_done(self, _: asyncio.Future[Any]) -> None:
        self._jump.threads -= 1

    async def create_connection(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no real sockets under a virtual clock: run this test on a real loop")

    async def create_server(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("no real sockets under a virtual clock: run this test on a real loop")


def run_virtual(main: Coroutine[Any, Any, Result]) -> Result:
    """Runs `main` to its end in virtual time. Raises `Deadlock` when it can never end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


def virtual(test: Callable[Params, Coroutine[Any, Any, Result]]) -> Callable[Params, Result]:
    """Runs an async test in virtual time. Fixtures must be plain ones: async ones have another loop."""

    @functools.wraps(test)
    def run(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        return run_virtual(test(*args, **kwargs))

    return run
