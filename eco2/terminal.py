"""Makes text safe for a terminal: it cannot move the cursor, change a colour or reorder letters.

Every command that prints texts of models, providers or clients uses `visible` or `one_line`.
"""

import json
import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_JOINERS = frozenset("\u200c\u200d")
"""Emoji and some scripts need these; they change only the shape of neighbouring characters."""


def visible(text: str) -> str:
    """Returns the text with control, format and direction characters escaped as in JSON, except line breaks.

    A JSON document keeps its meaning.
    """
    return text if text.isascii() and text.isprintable() else "".join(map(shown, text))


def one_line(text: object) -> str:
    """Returns any value as `visible` text in one line, with line breaks escaped as well."""
    return visible(str(text)).replace("\n", "\\n")


def shown(character: str) -> str:
    """Returns the character, or its JSON escape if a terminal would act on it."""
    if character == "\n" or character in _JOINERS or unicodedata.category(character) not in _HIDDEN:
        return character
    return json.dumps(character)[1:-1]
