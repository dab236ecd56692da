"""The words by which jobs are chosen for a replay."""

import pytest
import typer

from eco2.commands.jobs import replay, seconds
from eco2.errors import ConfigurationError


@pytest.mark.parametrize(("text", "found"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86_400)])
def test_a_duration_is_a_number_with_a_unit(text: str, found: float) -> None:
    assert seconds(text) == found


@pytest.mark.parametrize("text", ["", "h", "2", "0h", "-1h", "1.5h", "²h", "soon"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30m"):
        seconds(text)


def test_jobs_are_named_either_by_ids_or_by_filters() -> None:
    with pytest.raises(ConfigurationError, match="--pipeline, --code, --since"):
        replay()
    with pytest.raises(ConfigurationError, match="--pipeline, --code, --since"):
        replay(["id"], code="EXPIRED")
