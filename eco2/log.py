"""Logs: one renderer for our own lines and for those of the libraries, with the job id in each.

Guarantees: JSON lines (one object each: `timestamp` in UTC, `level`, `logger`, `event`, `job_id` where one is
bound, and the line's own fields) unless a person looks at a terminal; nothing is set up before `configure`,
so a program that only uses `eco2.client` keeps its own logging.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import structlog
from structlog.contextvars import bind_contextvars, merge_contextvars, reset_contextvars
from structlog.dev import ConsoleRenderer
from structlog.processors import ExceptionRenderer, JSONRenderer, StackInfoRenderer, TimeStamper
from structlog.stdlib import BoundLogger, ProcessorFormatter
from structlog.typing import Processor


class Logger(BoundLogger):
    """structlog's, but for this: a debug line below the level costs next to nothing."""

    def debug(self, event: str | None = None, *args: object, **fields: object) -> None:
        if self._logger.isEnabledFor(logging.DEBUG):
            super().debug(event, *args, **fields)


# Theirs, with a traceback for each lost connection; our links log the loss once. At debug they log frames,
# and so uploads, questions and passwords: they never get lower than info.
# The parsers of forms warn of each broken one, so that any client could fill the log.
_ALARMIST = ("aio_pika", "aiormq", "multipart", "pamqp", "python_multipart")
# Their ordinary lines repeat what ours say (reconnects, requests), once per call or connection.
_TALKATIVE = ("asyncio", "httpcore", "httpcore2", "httpx", "httpx2", "openai", "PIL", "uvicorn")

_LINE: tuple[Processor, ...] = (
    merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.PositionalArgumentsFormatter(),
    StackInfoRenderer(),
    TimeStamper(fmt="iso", utc=True),
)


def configure(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:
    """Send every log line to `stream` (default: standard error); may be called again.

    `level`: debug, info, warning or error. `format`: json, console, or auto (console on a terminal).
    """
    stream = stream if stream is not None else sys.stderr
    console = format == "console" or (format == "auto" and stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(console, colors=stream.isatty()))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    for name in _ALARMIST:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.ERROR)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.INFO if level == "debug" else logging.WARNING)


def get_logger(name: str) -> Logger:
    """A logger that takes an event and its fields: `log.info("job settled", outcome="done")`."""
    logger: Logger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, *_LINE, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=Logger,
        cache_logger_on_first_use=True,
    )
    return logger


@contextmanager
def bind_job(job_id: str) -> Iterator[None]:
    """Every line logged inside, by whichever library, carries `job_id`; tasks started inside inherit it."""
    before = bind_contextvars(job_id=job_id)
    try:
        yield
    finally:
        reset_contextvars(**before)


def _formatter(console: bool, *, colors: bool) -> logging.Formatter:
    strip = ProcessorFormatter.remove_processors_meta
    render: list[Processor]
    if console:
        render = [strip, ConsoleRenderer(colors=colors)]
    else:
        render = [strip, ExceptionRenderer(), JSONRenderer(ensure_ascii=False, default=str)]
    return ProcessorFormatter(foreign_pre_chain=_LINE, processors=render)
