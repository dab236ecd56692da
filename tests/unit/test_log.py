"""Logs: one JSON object per line with the job's id, whoever writes the line."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from eco2.log import bind_job, configure, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(False)


def _lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_the_job() -> None:
    stream = io.StringIO()
    configure("info", "auto", stream)
    with bind_job("j1"):
        get_logger("eco2.test").info("페트병 seen", stage="vision", score=0.9)
    get_logger("eco2.test").info("idle")
    first, second = _lines(stream)
    assert first.pop("timestamp")
    assert first == {
        "event": "페트병 seen",
        "level": "info",
        "logger": "eco2.test",
        "job_id": "j1",
        "stage": "vision",
        "score": 0.9,
    }
    assert "job_id" not in second


def test_lines_of_libraries_look_the_same() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    with bind_job("j1"):
        logging.getLogger("uvicorn.error").warning("lost %s", "broker")
    (line,) = _lines(stream)
    assert (line["event"], line["job_id"], line["level"]) == ("lost broker", "j1", "warning")


def test_talkative_libraries_are_quiet_unless_debugging() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("httpx").info("GET /")
    assert _lines(stream) == []
    configure("debug", "json", stream)
    logging.getLogger("httpx").info("GET /")
    assert [line["event"] for line in _lines(stream)] == ["GET /"]


def test_an_exception_is_part_of_its_line() -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise ValueError("no such stage")
    except ValueError:
        get_logger("eco2.test").exception("job failed")
    (line,) = _lines(stream)
    assert "ValueError: no such stage" in str(line["exception"])


def test_the_level_holds_after_it_was_changed() -> None:
    stream = io.StringIO()
    log = get_logger("eco2.test")
    configure("error", "json", stream)
    log.warning("hidden")
    configure("debug", "json", stream)
    log.debug("shown")
    assert [line["event"] for line in _lines(stream)] == ["shown"]


def test_a_person_at_a_terminal_reads_text() -> None:
    stream = Terminal()
    configure("info", "auto", stream)
    get_logger("eco2.test").info("ready", port=8000)
    assert "ready" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())


@pytest.mark.parametrize(
    "name",
    [
        "aiormq.connection",
        "aio_pika.message",
        "pamqp.frame",
        "httpx",
        "httpx2",
        "httpcore.http11",
        "openai._base_client",
        "python_multipart.multipart",
        "PIL.PngImagePlugin",
        "uvicorn.error",
    ],
)
def test_debugging_shows_no_frames_of_libraries(name: str) -> None:
    stream = io.StringIO()
    configure("debug", "json", stream)
    logging.getLogger(name).debug("a photo, a question, a password")
    get_logger("eco2.test").debug("ours")
    assert [line["event"] for line in _lines(stream)] == ["ours"]
