"""How every command begins: the settings of this process, and a loop to run in."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from eco2.settings import Settings

Value = TypeVar("Value")


def settings(level: str = "info", **given: str | int | None) -> "Settings":
    """The settings, with the log set up as they say; `level`: the least that is written unless they do.

    `given`: values of the command line by field; one that is not None comes before the environment's.
    """
    from eco2 import log
    from eco2.environment import load

    loaded = load({field: value for field, value in given.items() if value is not None})
    log.configure(level if loaded.log_level == "info" else loaded.log_level, loaded.log_format)
    return loaded


def run(main: Coroutine[object, object, Value]) -> Value:
    """What `main` returns."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
