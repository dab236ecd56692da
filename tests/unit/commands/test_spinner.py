"""What a command says while somebody waits for it."""

import asyncio

import pytest

from eco2.commands.spinner import spinner
from eco2.testing.clock import virtual


@virtual
async def test_only_a_wait_that_lasts_is_told_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    with spinner("a moment"):
        await asyncio.sleep(0.5)
    with spinner("[the journal]") as show_progress:
        await asyncio.sleep(2.0)
        show_progress("half")
    await asyncio.sleep(1.0)
    out, error = capsys.readouterr()
    assert (out, error) == ("", "waiting for [the journal] …\n")


@virtual
async def test_a_wait_that_fails_is_told_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LookupError), spinner("nothing"):
        raise LookupError
    await asyncio.sleep(2.0)
    assert capsys.readouterr().err == ""
