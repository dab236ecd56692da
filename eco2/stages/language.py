"""The two languages of the scan, and the choice between them by the question."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Language = Literal["ko", "en"]


class Frozen(BaseModel):
    """A value read from the data files: immutable; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(Frozen):
    """One text in both languages."""

    ko: str
    en: str

    def in_language(self, language: Language) -> str:
        """Returns the text in `language`."""
        return self.ko if language == "ko" else self.en


def language_of(question: str) -> Language:
    """Returns Korean for a question with any Hangul or with no letter at all, else English."""
    letters = [char for char in question if char.isalpha()]
    if not letters or any("가" <= char <= "힣" or "ㄱ" <= char <= "ㅣ" for char in letters):
        return "ko"
    return "en"
