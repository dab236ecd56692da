"""A scan for people who look at a terminal: its stages live, then what was seen and what to do.

Guarantees: what models, providers and clients wrote moves no cursor, changes no colour, reorders no letters
and is not read as markup. `visible` and `one_line` do that for every command that prints such text.
"""

import json
import time
import unicodedata
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from eco2.client import Client, ClientEvent, ClientJob
from eco2.job import JSON

MARKS = {"started": "…", "completed": "[green]✓[/]", "failed": "[red]✗[/]", "cancelled": "[yellow]–[/]"}


_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Emoji and some scripts need them; they change only how their neighbours are drawn."""


def visible(text: str) -> str:
    """`text` with control, format and direction characters as JSON writes them; line breaks stay.

    JSON stays the same document.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def one_line(text: object) -> str:
    """The same of any value, with line breaks written out as well: for a cell of a table, or a line."""
    return visible(str(text)).replace("\n", "\\n")


def _shown(character: str) -> str:
    if character == "\n" or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return json.dumps(character)[1:-1]


def _text(value: object) -> str:
    return escape(one_line(value))


async def follow(client: Client, job: ClientJob, console: Console) -> JSON:
    """Prints every event of the job as it comes, then the result, and returns that."""
    lines = _Lines(console)
    result: JSON = {}
    async for event in client.events(job):
        lines.show(event)
        if event.name == "done":
            result = event.result or {}
    _summary(result, console)
    return result


class _Lines:
    """One line an event; live text grows on a line of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._live = ""

    def show(self, event: ClientEvent) -> None:
        if event.text is not None:
            if event.again and self._live:
                self._console.print()
                self._live = ""
            self._write(event.text)
            return
        if self._live:
            self._finish(event)
        elapsed = time.monotonic() - self._began
        mark = MARKS.get(event.status or "", " ")
        self._console.print(
            f"[dim]{elapsed:7.2f} s[/]  {mark} {_text(event.name):<8}{_text(event.status or ''):<10}"
            f"[dim]{event.progress or 0:>4} %[/]",
            highlight=False,
        )

    def _write(self, text: str) -> None:
        self._console.print(
            "" if self._live else "  ", visible(text), sep="", end="", style="cyan", markup=False
        )
        self._live += text

    def _finish(self, event: ClientEvent) -> None:
        """Ends the line of live text; pieces that were still on their way are in the stage's output."""
        whole = (event.result or {}).get("text")
        if isinstance(whole, str) and whole.startswith(self._live):
            self._write(whole[len(self._live) :])
        self._console.print()
        self._live = ""


def _summary(result: JSON, console: Console) -> None:
    answer = _at(result, "pipeline_result", "final_answer")
    seen = _at(result, "pipeline_result", "classification_result", "classification")
    error = _at(result, "error")
    if error:
        console.print(
            Panel(f"{_text(error.get('code'))}: {_text(error.get('message'))}", title="failed", style="red")
        )
        return
    names = [
        _text(seen[part])
        for part in ("major_category", "middle_category", "minor_category")
        if seen.get(part)
    ]
    lines = ["[bold]Seen[/]     " + " › ".join(dict.fromkeys(names))]
    steps = _at(answer, "disposal_steps").values()
    told = [step for step in steps if step != answer.get("user_answer")]
    lines += ["", "[bold]Dispose[/]"] if told else []
    lines += [f"  {number}. {_text(step)}" for number, step in enumerate(told, 1)]
    missing = answer.get("insufficiencies")
    if isinstance(missing, list) and missing:
        lines += ["", "[bold]First[/]    " + "; ".join(map(_text, missing))]
    lines += ["", f"[bold]Answer[/]   {escape(visible(str(answer.get('user_answer'))))}"]
    reward = _at(result, "reward")
    if reward:
        lines += ["", f"[bold]Reward[/]   {_text(reward.get('name'))}: {_text(reward.get('dialog'))}"]
    lines += ["", f"[dim]Model    {_text(_models(result))}[/]"]
    console.print(Panel("\n".join(lines), title="Eco² scan", expand=False), highlight=False)


def _models(result: JSON) -> str:
    usage = _at(result, "usage").values()
    return ", ".join(dict.fromkeys(str(used.get("model")) for used in usage if isinstance(used, dict)))


def _at(document: Mapping[str, object], *path: str) -> Mapping[str, object]:
    """The object at `path`, or an empty one where there is none."""
    for name in path:
        inner = document.get(name)
        document = inner if isinstance(inner, dict) else {}
    return document
