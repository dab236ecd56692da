"""Live text on a terminal: one text at a time."""

from io import StringIO

from rich.console import Console

from eco2.client import ClientEvent
from eco2.demo import EventPrinter


def test_texts_of_branches_are_not_mixed() -> None:
    shown = StringIO()
    printer = EventPrinter(Console(file=shown, width=100))
    pieces = [("Rinse", "a"), ("Put", "b"), (" it", "a"), (" on", "b")]
    for text, call in pieces:
        printer.show(ClientEvent(name="answer.delta", text=text, call=call))
        printer.show(ClientEvent(name="answer.progress", done=1, total=2))
    printer.show(ClientEvent(name="answer", status="completed", seq=31, progress=75))
    printer.show(ClientEvent(name="next.delta", text="Then", call="b"))
    lines = shown.getvalue().splitlines()
    assert lines[0] == "  Rinse it"
    assert "completed" in lines[1]
    assert lines[2:] == ["  Then"]
