"""Removes a model's thoughts from its text: `<think>…</think>` and its like, whole or piece by piece. Pure.

A piece may end inside a tag, so text that could begin one is held back until it is decided. Text after an
opening tag that is never closed is a thought.
"""

import re

_NAME = r"(?:(?:seed:)?think|thinking|thought|thoughts|reasoning|reflection)"
_OPEN = rf"(?:<{_NAME}(?:\s[^<>]*)?>|\[THINK\]|◁think▷)"
_CLOSE = re.compile(rf"(?:</{_NAME}\s*>|\[/THINK\]|◁/think▷)", re.IGNORECASE)
_TAG = re.compile(rf"{_OPEN}|{_CLOSE.pattern}", re.IGNORECASE)
_THOUGHT = re.compile(rf"{_OPEN}.*?(?:{_CLOSE.pattern}|\Z)", re.IGNORECASE | re.DOTALL)
_UNDECIDED = re.compile(
    rf"<(?:/?[a-z:]{{0,10}}|{_NAME}\s[^<>]{{0,100}})$|</{_NAME}\s*$|[\[◁]/?[a-z]{{0,5}}$", re.IGNORECASE
)
_LEADING = "\ufeff \t\r\n"


class ThoughtFilter:
    """Removes thoughts from a text that comes in pieces. Shows nothing blank before the first word.

    A closing tag without an opening one is dropped: the text before it has been shown already.
    """

    def __init__(self) -> None:
        self._held = ""
        self._thinking = False
        self._begun = False

    def add(self, piece: str) -> str:
        """Returns the text that may be shown now."""
        self._held += piece
        shown = ""
        while (tag := (_CLOSE if self._thinking else _TAG).search(self._held)) is not None:
            if not self._thinking:
                shown += self._held[: tag.start()]
            self._held = self._held[tag.end() :]
            self._thinking = tag[0][1] != "/"
        undecided = _UNDECIDED.search(self._held)
        at = undecided.start() if undecided else len(self._held)
        if not self._thinking:
            shown += self._held[:at]
        self._held = self._held[at:]
        return self.without_leading(shown)

    def end(self) -> str:
        """Returns the text that was held back and is no thought."""
        rest, self._held = self._held, ""
        return "" if self._thinking else self.without_leading(rest)

    def without_leading(self, text: str) -> str:
        """Returns the text, without blanks if nothing was shown before."""
        if not self._begun:
            text = text.lstrip(_LEADING)
            self._begun = bool(text)
        return text


def without_thoughts(text: str) -> str:
    """Returns the whole text without thoughts. All text before a lone closing tag is a thought.

    Some models are prompted with the opening tag, so they write only the closing one.
    """
    shown = _THOUGHT.sub("", text)
    closings = list(_CLOSE.finditer(shown))
    return shown[closings[-1].end() if closings else 0 :].lstrip(_LEADING)
