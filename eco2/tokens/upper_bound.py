"""Bounds what a text counts from above, whatever is in it: no mean holds for rare scripts and random letters.

The vocabularies of the models work on bytes, so no text has more tokens than bytes. Tighter, by measurement
with o200k (random texts of each class): letters of the Latin alphabet 0.70 a letter, digits three at a time,
a syllable of Korean 1 if it is in the vocabulary, else up to 3. All else counts its bytes (cuneiform: 4).
The price: long ordinary English is bounded at about 2.7 times what it counts, Korean at 1.7 times.
"""

import math
import re
from functools import cache
from importlib.resources import files

_PIECES = re.compile(
    r"(?P<word> ?[A-Za-z]+)|(?P<number>[0-9]{1,3})|(?P<syllable>[가-힣])|(?P<sign>[\x00-\x7f])|(?P<other>.)",
    re.DOTALL,
)
RARE = re.compile(r"[^\x00-\u2fff\u3000-\u9fff\uac00-\ud7a3\uf900-\ufffd]+")
"""Hardly in ordinary text of any living script: signs beyond the basic plane, private use."""
MAX_LETTER = 0.75
"""Tokens of a letter in a word of random letters, at the most."""

MAX_ORDINARY = 120
"""Characters of a question that may be taken for an ordinary one."""
_ASCII, _SYLLABLE, _SLACK = 0.85, 1.35, 6.0
"""An ordinary text stays below so many tokens, by this bound, for each ASCII character and each syllable."""


def upper_bound(text: str) -> int:
    """Computes the most tokens that `text` can count."""
    return math.ceil(sum(_most(found) for found in _PIECES.finditer(text)))


def is_ordinary(text: str) -> bool:
    """Tests for a short text of usual Korean or ASCII, which a learnt mean describes."""
    syllables = sum("가" <= char <= "힣" for char in text)
    usual = _ASCII * sum(char.isascii() for char in text) + _SYLLABLE * syllables + _SLACK
    return len(text) <= MAX_ORDINARY and upper_bound(text) <= usual


def _most(found: re.Match[str]) -> float:
    piece = found[0]
    match found.lastgroup:
        case "word":
            return max(1.0, MAX_LETTER * len(piece.lstrip()))
        case "number" | "sign":
            return 1.0
        case "syllable":
            return 1.0 if piece in known_syllables() else 3.0
        case _:
            return len(piece.encode(errors="replace"))


@cache
def known_syllables() -> frozenset[str]:
    """Reads the syllables with a token of their own in o200k; texts count others with two or three."""
    return frozenset(files("eco2.tokens").joinpath("syllables.txt").read_text(encoding="utf-8"))
