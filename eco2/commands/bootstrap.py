"""Starts every command: loads the settings, sets up the log, and runs the command in an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from eco2.settings import Settings

Value = TypeVar("Value")


def settings(level: str = "info", **given: str | int | None) -> "Settings":
    """Loads the settings and sets up the log. `level`: the log level unless the settings name another.

    `given`: values of command-line options by field; they override the environment unless None.
    """
    from eco2 import log
    from eco2.environment import load

    loaded = load({field: value for field, value in given.items() if value is not None})
    log.configure(level if loaded.log_level == "info" else loaded.log_level, loaded.log_format)
    return loaded


def run(main: Coroutine[object, object, Value]) -> Value:
    """Runs the coroutine in a new event loop, and returns its result."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
