"""Text of others on a terminal: nothing of it moves the cursor, changes a colour or reorders letters.

`visible` and `one_line` guarantee that for every command that prints what models, providers or clients wrote.
"""

import json
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Emoji and some scripts need them; they change only how their neighbours are drawn."""


def visible(text: str) -> str:
    """`text` with control, format and direction characters as JSON writes them; line breaks stay.

    JSON stays the same document.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))


def one_line(text: object) -> str:
    """The same of any value, with line breaks written out as well: for a cell of a table, or a line."""
    return visible(str(text)).replace("\n", "\\n")


def shown(character: str) -> str:
    """Returns the character, or its JSON escape if a terminal would act on it."""
    if character == "\n" or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return json.dumps(character)[1:-1]
