"""Text of others is shown on a terminal as text: no escape sequence, no reordering, no markup."""

import io
import json
from collections.abc import AsyncIterator
from typing import cast

import pytest
from rich.console import Console

from eco2.client import Client, ClientEvent, ClientJob
from eco2.commands import tables
from eco2.demo import follow
from eco2.operator.cost import Cost
from eco2.operator.dead_jobs import DeadRow
from eco2.terminal import one_line, visible

EVIL = "\x1b[2J\x1b]0;owned\x07[/x][bold]\u202egnp.exe\u2066\x9b31m\r\x08\u200b\U000e0041"
HIDDEN = "\x1b\x07\x9b\r\x08\u202e\u2066\u200b\U000e0041"


def result(text: str) -> dict[str, object]:
    kinds = {f"{part}_category": text for part in ("major", "middle", "minor")}
    answer = {"user_answer": text, "disposal_steps": {"a": text}, "insufficiencies": [text]}
    return {
        "status": "completed",
        "pipeline_result": {"classification_result": {"classification": kinds}, "final_answer": answer},
        "reward": {"name": text, "dialog": text},
        "usage": {"vision": {"model": text}},
    }


async def shown(*events: ClientEvent) -> str:
    class Fake:
        async def events(self, _: ClientJob) -> AsyncIterator[ClientEvent]:
            for event in events:
                yield event

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system=None, width=200)
    await follow(cast(Client, Fake()), cast(ClientJob, None), console)
    return out.getvalue()


@pytest.mark.parametrize(
    "final", [result(EVIL), {"status": "failed", "error": {"code": EVIL, "message": EVIL}}]
)
async def test_nothing_of_a_scan_reaches_the_terminal_as_more_than_text(final: dict[str, object]) -> None:
    text = await shown(
        ClientEvent(name=EVIL, seq=1),
        ClientEvent(name="a.delta", text=EVIL),
        ClientEvent(name="done", result=final),
    )
    assert not set(HIDDEN) & set(text)
    assert "[/x][bold]" in text
    assert r"\u001b[2J" in text


async def test_a_stage_that_is_tried_again_is_one_line() -> None:
    retrying = ClientEvent(name="retrying", stage="vision", attempt=2, eta_seconds=5)
    text = await shown(retrying, ClientEvent(name="done", result={}))
    assert "… vision  fails; try 2 in 5 s\n" in text


def test_tables_show_it_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    row = DeadRow("j", EVIL, "failed", EVIL, EVIL + "\nb", None, EVIL, Cost(), 1, EVIL)
    out = tables.console()
    out.print(tables.dead_table([row]))
    tables.print_letters(row, [], {"a": EVIL}, out)
    tables.print_json({"a": EVIL})
    text = capsys.readouterr().out
    assert not set(HIDDEN) & set(text)


def test_what_people_write_stays_as_it_is() -> None:
    for text in ("재활용, Eco²: ½ €", "👩‍👩‍👧 ok", "a\nb", "العربية"):
        assert visible(text) == text
    assert one_line("a\nb") == r"a\nb"


def test_json_stays_the_same_document() -> None:
    assert json.loads(visible(json.dumps({"a": EVIL}, ensure_ascii=False))) == {"a": EVIL}
