"""Makes the fake's answers: a fixed Korean text of a given length, or JSON, cut into pieces for a stream.

A piece never ends inside a character, and the pieces are as even in tokens as that allows. The token count
is always that of the text that is sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import cycle

from eco2.fake.tokens import count, encode, spelling

SENTENCES = (
    "내용물을 깨끗이 비우고 물로 헹군 뒤 말려 주세요.",
    "라벨과 뚜껑은 떼어서 재질에 맞게 따로 버리면 됩니다.",
    "부피를 줄이도록 납작하게 접거나 눌러서 수거함에 넣어 주세요.",
    "기름기나 음식물이 남아 있으면 재활용이 어려우니 종량제 봉투에 담아 주세요.",
    "깨진 조각은 신문지로 감싸 다치는 사람이 없도록 해 주세요.",
    "잘 모르겠으면 사는 곳의 분리배출 안내를 한 번 더 확인해 주세요.",
)


@dataclass(frozen=True, slots=True)
class Content:
    """An answer in pieces. `complete`: False if `max_completion_tokens` cut it."""

    pieces: tuple[str, ...]
    tokens: int
    complete: bool

    @property
    def text(self) -> str:
        """Returns the whole answer."""
        return "".join(self.pieces)


@lru_cache(maxsize=64)
def prose(tokens: int, chunks: int) -> Content:
    """Returns the fixed text, cut to exactly `tokens` tokens."""
    text = ""
    for sentence in cycle(SENTENCES):
        text += sentence if not text else " " + sentence
        if count(text) > tokens:
            break
    cut = cut_to(text, tokens)
    for mark in ".!":  # where the next character would take two tokens, a mark of one fills the gap
        cut += mark if count(cut + mark) <= tokens else ""
    return Content(split(cut, chunks), count(cut), complete=True)


def limited(text: str, chunks: int, limit: int | None) -> Content:
    """Returns `text` in pieces, cut after `limit` tokens."""
    if limit is None or count(text) <= limit:
        return Content(split(text, chunks), count(text), complete=True)
    cut = cut_to(text, limit)
    return Content(split(cut, chunks), count(cut), complete=False)


def cut_to(text: str, tokens: int) -> str:
    """Returns the longest prefix of `text` that has at most `tokens` tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(text[:middle]) <= tokens else (low, middle - 1)
    return text[:low]


def split(text: str, chunks: int) -> tuple[str, ...]:
    """Splits the text into at most `chunks` pieces; none is empty, except of an empty text."""
    ends = character_ends([spelling(token) for token in encode(text)])
    whole = text.encode()
    if not ends:
        return ("",)
    wanted = min(chunks, len(ends))
    stops = [ends[len(ends) * index // wanted - 1] for index in range(1, wanted + 1)]
    return tuple(whole[a:b].decode() for a, b in zip([0, *stops], stops, strict=False))


def character_ends(spellings: Sequence[bytes]) -> list[int]:
    """Returns the byte offsets after tokens that end a character: the next byte does not continue one."""
    offsets, offset = [], 0
    for spelled, following in zip(spellings, [*spellings[1:], b""], strict=False):
        offset += len(spelled)
        if not following or following[0] & 0xC0 != 0x80:
            offsets.append(offset)
    return offsets
