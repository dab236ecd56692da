"""Takes a model's thoughts out of what it writes: `<think>…</think>`, whole or piece by piece. Pure.

A piece may end inside a tag, so text that could begin one is held back until it is decided. What follows an
opening tag that is never closed is a thought.
"""

import re

_NAME = r"(?:think|thinking|thought|thoughts|reasoning|reflection)"
_OPEN = re.compile(rf"<{_NAME}(?:\s[^<>]*)?>", re.IGNORECASE)
_CLOSE = re.compile(rf"</{_NAME}\s*>", re.IGNORECASE)
_UNDECIDED = re.compile(rf"<(?:/?[a-z]{{0,10}}|{_NAME}\s[^<>]{{0,100}})$|</{_NAME}\s*$", re.IGNORECASE)
_BEFORE = "\ufeff \t\r\n"


class Visible:
    """Takes thoughts out of a text that comes in pieces. Nothing blank is shown before the first word."""

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False

    def add(self, piece: str) -> str:
        """The text that may be shown now."""
        self._held += piece
        parts = []
        while (found := (_CLOSE if self._thinking else _OPEN).search(self._held)) is not None:
            if not self._thinking:
                parts.append(self._held[: found.start()])
            self._held = self._held[found.end() :]
            self._thinking = not self._thinking
        undecided = _UNDECIDED.search(self._held)
        at = undecided.start() if undecided else len(self._held)
        if not self._thinking:
            parts.append(self._held[:at])
        self._held = self._held[at:]
        return self._trimmed("".join(parts))

    def end(self) -> str:
        """Returns text that was held back and is no part of a thought."""
        rest, self._held = self._held, ""
        return "" if self._thinking else self._trimmed(rest)

    def _trimmed(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip(_BEFORE)
            self._begun = bool(text)
        return text


def without_thoughts(text: str) -> str:
    """The whole text without them. In front of a lone closing tag all is a thought: some models are made to
    begin with one, and do not write the opening tag."""
    visible = Visible()
    shown = visible.add(text) + visible.end()
    closings = list(_CLOSE.finditer(shown))
    return shown[closings[-1].end() :].lstrip(_BEFORE) if closings else shown
