"""What a command says while somebody waits for it."""

import asyncio

import pytest

from eco2.commands.waiting import MOMENT, waiting
from tests.support.virtual_clock import virtual


@virtual
async def test_only_a_wait_that_lasts_is_told_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    with waiting("a moment"):
        await asyncio.sleep(MOMENT / 2)
    with waiting("[the journal]") as tell:
        await asyncio.sleep(2 * MOMENT)
        tell("half")
    await asyncio.sleep(MOMENT)
    out, error = capsys.readouterr()
    assert (out, error) == ("", "waiting for [the journal] …\n")


@virtual
async def test_a_wait_that_fails_is_told_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LookupError), waiting("nothing"):
        raise LookupError
    await asyncio.sleep(2 * MOMENT)
    assert capsys.readouterr().err == ""
