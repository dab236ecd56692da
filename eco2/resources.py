"""Opens what the pipelines of a worker share among their jobs, such as pools and clients, and closes it.

Guarantees: a worker whose resources cannot be opened does not start, and says why; what was opened is closed
after the last job, also where another one could not be opened.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from eco2.cancellation import raise_if_cancelled
from eco2.consumers.cause import cause_of
from eco2.errors import ConfigurationError
from eco2.log import get_logger
from eco2.pipeline import AnyPipeline

OPEN_TIMEOUT = 60.0
"""Seconds."""
CLOSE_TIMEOUT = 10.0
"""Seconds."""

log = get_logger(__name__)


@asynccontextmanager
async def open_resources(pipelines: Sequence[AnyPipeline]) -> AsyncIterator[Mapping[str, object]]:
    """Opens the resources of every pipeline that has any, by its name. Raises `ConfigurationError`."""
    opened: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        for pipeline in pipelines:
            if pipeline.resources is not None:
                manager, opened[pipeline.name] = await enter(pipeline.resources, pipeline.name)
                stack.push_async_callback(leave, manager, pipeline.name)
        yield opened


async def enter(
    make: Callable[[], object], pipeline: str
) -> tuple[AbstractAsyncContextManager[object], object]:
    """Opens the resources of one pipeline. Raises `ConfigurationError`."""
    where = f"pipeline {pipeline!r}: its `resources`"
    limit = asyncio.timeout(OPEN_TIMEOUT)
    try:
        manager = make()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise ConfigurationError(
                f"{where} returns a {type(manager).__name__}, not an async context manager: "
                "decorate an async generator with contextlib.asynccontextmanager"
            )
        async with limit:
            return manager, await manager.__aenter__()
    except ConfigurationError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError):
            raise_if_cancelled()  # else it is a stray one, as of a task that the pipeline's code awaits
        why = f"not open after {OPEN_TIMEOUT:g} s" if limit.expired() else cause_of(error)
        raise ConfigurationError(
            f"{where} cannot be opened: {why}; the worker takes no jobs without them"
        ) from error


async def leave(manager: AbstractAsyncContextManager[object], pipeline: str) -> None:
    """Closes the resources of one pipeline. An error is logged: the jobs are done."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await manager.__aexit__(None, None, None)
    except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001  # the pipeline's own code
        if isinstance(error, asyncio.CancelledError):
            raise_if_cancelled()
        log.warning("the resources of a pipeline were not closed", pipeline=pipeline, why=cause_of(error))
