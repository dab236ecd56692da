"""The client for programs without an event loop: Django, Flask, scripts. It waits where `eco2.client` awaits.

It is that client, run by an event loop on a thread of its own: the same requests, retries and errors, and no
second implementation of them. Guarantees: all threads may use one client at once; a process that was forked
opens its own connections, so a client may be made before a server forks its workers. An iterator that
was begun before the fork can only be continued by the process that began it.
"""

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Self, TypeVar

from eco2 import client
from eco2.client import (
    ClientEvent,
    ClientJob,
    Eco2Error,
    File,
    NotFinished,
    Refused,
    Unavailable,
    Upload,
)
from eco2.job import JSON, Priority

__all__ = [
    "Client",
    "ClientEvent",
    "ClientJob",
    "Eco2Error",
    "File",
    "NotFinished",
    "Refused",
    "Unavailable",
    "Upload",
    "submit",
]

Result = TypeVar("Result")


class Client:
    """As `eco2.client.Client`, whose methods say more: here each returns when it is done.

    Use it in `with`, or call `close` at the end. Share one between all threads. Without a `close` it ends
    with the process.
    """

    def __init__(
        self,
        base_url: str,
        *,
        connections: int = 100,
        patience: float = 60.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        client.parse_base_url(base_url)  # at once, as the other client does
        self._make = partial(
            client.Client, base_url, connections=connections, patience=patience, headers=headers
        )
        self._runners: dict[int, _Runner] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; what other threads wait for ends with `Unavailable`."""
        self._closed = True
        if runner := self._runners.pop(os.getpid(), None):
            runner.close()

    def submit(
        self,
        pipeline: str,
        input: Mapping[str, object],
        key: str | None = None,
        files: Mapping[str, File] | None = None,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
        max_usd: float | None = None,
        priority: Priority | None = None,
    ) -> ClientJob:
        """Submits a job."""
        runner = self._runner()
        submitted = runner.client.submit(
            pipeline,
            input,
            key,
            files,
            max_wait=max_wait,
            timeout=timeout,
            max_usd=max_usd,
            priority=priority,
        )
        return runner.run(submitted)

    def submit_many(
        self,
        pipeline: str,
        inputs: Iterable[Mapping[str, object]],
        keys: Iterable[str] | None = None,
        *,
        max_wait: float | None = None,
        timeout: float | None = None,
        max_usd: float | None = None,
        priority: Priority | None = None,
    ) -> Iterator[ClientJob | Eco2Error]:
        """Submits a job per input; yields each as a `ClientJob`, or why it was not accepted, in order.

        The inputs are taken on the thread of the caller: they may come from its database connection.
        """
        terms = client.encode_terms(max_wait, timeout, max_usd, priority)
        for lines in client.split_batches(client.encode_lines(inputs, keys)):
            runner = self._runner()
            yield from runner.run(runner.client.submit_lines(pipeline, lines, terms))

    def events(self, job: ClientJob, last_event_id: str | None = None) -> Iterator[ClientEvent]:
        """Yields the job's events up to `done`; with `last_event_id` only those after that event."""
        runner = self._runner()
        return runner.iterate(runner.client.events(job, last_event_id))

    def result(self, job: ClientJob, timeout: float = 180.0) -> JSON:
        """Waits for the job's result."""
        runner = self._runner()
        return runner.run(runner.client.result(job, timeout))

    def cancel(self, job: ClientJob) -> JSON:
        """Cancels the job, and returns its result; again, it returns the same."""
        runner = self._runner()
        return runner.run(runner.client.cancel(job))

    def results(self, jobs: Iterable[ClientJob], timeout: float = 180.0) -> Iterator[JSON | Eco2Error]:
        """Yields the result of each job, or why there is none, in order."""
        remaining = iter(jobs)
        while batch := list(itertools.islice(remaining, client.RESULTS_AT_ONCE)):
            runner = self._runner()
            yield from runner.run(runner.client.results_at_once(batch, timeout))

    def _runner(self) -> "_Runner":
        """Returns the runner of this process; a fork leaves the thread of the parent's behind."""
        if self._closed:
            raise Unavailable(client.CLOSED)
        if (runner := self._runners.get(os.getpid())) is not None:
            return runner
        # No lock, which a fork might leave locked: of two threads that come first one starts in vain.
        new = _Runner(self._make())
        if (runner := self._runners.setdefault(os.getpid(), new)) is not new:
            new.close()
        return runner


class _Runner:
    """One process's event loop on its thread, and the client that it runs."""

    def __init__(self, client_: client.Client) -> None:
        self.client = client_
        self._process = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._ended = False
        # Reentrant: the collector may end an iterator, which starts its close, while this is held. A child
        # process never takes it, so it does not matter if a fork leaves it locked.
        self._lock = threading.RLock()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eco2.client.sync", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[None, None, Result]) -> Future[Result]:
        """Starts `work` on the loop. Raises `Unavailable` where that does not run."""
        try:
            if os.getpid() != self._process:
                raise Unavailable("this was begun by another process, before it forked; begin it again")
            with self._lock:
                if self._ended:
                    raise Unavailable(client.CLOSED)
                return asyncio.run_coroutine_threadsafe(work, self._loop)
        except Unavailable:
            work.close()
            raise

    def run(self, work: Coroutine[None, None, Result]) -> Result:
        """Returns what `work` does on the loop; an interrupt of this thread cancels it."""
        future = self.start(work)
        try:
            return future.result()
        except CancelledError as error:
            raise Unavailable(client.CLOSED) from error
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[Result, None]) -> Iterator[Result]:
        """Yields the items; leaving the iteration closes them."""
        try:
            while (item := self.run(_next(items))) is not None:
                yield item
        finally:
            # Not waited for: the collector may end this iterator on the very thread of the loop.
            with suppress(Unavailable):
                self.start(_close(items))

    def close(self) -> None:
        """Closes the client and ends the thread; what still runs is cancelled."""
        self.run(self.client.aclose())
        with self._lock:  # what another thread has started is known to the loop before this
            last = self.start(_cancel_others())
            self._ended = True
        last.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _next(items: AsyncGenerator[Result, None]) -> Result | None:
    return await anext(items, None)


async def _close(items: AsyncGenerator[Result, None]) -> None:
    await items.aclose()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def submit(pipeline: str, input: Mapping[str, object], *, base_url: str, key: str | None = None) -> ClientJob:
    """Submits one job; open a `Client` for several jobs. Raises `Refused`, `Unavailable`."""
    with Client(base_url) as one:
        return one.submit(pipeline, input, key)
