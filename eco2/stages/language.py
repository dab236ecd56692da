"""The two languages of the scan, and which one a question is in."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Language = Literal["ko", "en"]


class Frozen(BaseModel):
    """A value read from the data files: unchangeable, and strict about what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(Frozen):
    """One text in both languages."""

    ko: str
    en: str

    def said(self, language: Language) -> str:
        """The text in `language`."""
        return self.ko if language == "ko" else self.en


def language_of(question: str) -> Language:
    """Korean where there is any Hangul or no letter at all, else English."""
    letters = [char for char in question if char.isalpha()]
    if not letters or any("가" <= char <= "힣" or "ㄱ" <= char <= "ㅣ" for char in letters):
        return "ko"
    return "en"
