"""Stage `rule`: which rules apply to what was seen, and what the person still has to do. No call, no I/O.

The steps and what is missing are computed here from tags and tables, never by a language model, so a
picture cannot talk its way to a reward.
"""

from collections.abc import Sequence

from pydantic import BaseModel

from eco2.pipeline import Context
from eco2.stages.documents import Document, ItemRule, documents
from eco2.stages.language import Language, language_of
from eco2.stages.request import ScanInput
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Middle, taxonomy
from eco2.stages.vision import Seen


class Rules(BaseModel):
    """What applies. `found` is False where no document exists; then the other fields are empty.

    `item`: the item that the rules were chosen for, if it is a known one. `steps`: in order.
    `insufficiencies`: what the photo shows as not done yet. All texts are in `language`.
    """

    found: bool
    language: Language
    key: str = ""
    category: str = ""
    covers: str = ""
    item: str | None = None
    steps: list[str] = []
    insufficiencies: list[str] = []
    not_accepted: list[str] = []


async def run(ctx: Context[ScanInput]) -> Rules:
    """The rules for the output of `vision`, in the language of the question."""
    seen = ctx.outputs.get(Seen)
    return apply_rules(seen.middle, seen.minor, seen.tags, language_of(ctx.input.user_input))


def apply_rules(middle: Middle, minor: str | None, tags: Sequence[Tag], language: Language) -> Rules:
    """What holds for this class, item and state."""
    document = documents().get(middle)
    if document is None:
        return Rules(found=False, language=language)
    item = taxonomy().find(middle, minor)
    special = document.by_item.get(item.name, ItemRule()) if item else ItemRule()
    return Rules(
        found=True,
        language=language,
        key=document.key,
        category=middle.value,
        covers=document.covers.said(language),
        item=item.text.said(language) if item else None,
        steps=disposal_steps(document, special, tags, language),
        insufficiencies=insufficiencies(document, tags, language),
        not_accepted=[text.said(language) for text in document.not_accepted],
    )


def disposal_steps(
    document: Document, special: ItemRule, tags: Sequence[Tag], language: Language
) -> list[str]:
    """All steps in order: preparation, what is special to the item, putting out. None twice."""
    prepare = [
        step for step in document.prepare if (step.always and special.common) or set(step.tags) & set(tags)
    ]
    texts = [*prepare, *special.steps, special.put_out or document.put_out]
    return list(dict.fromkeys(text.said(language) for text in texts))


def insufficiencies(document: Document, tags: Sequence[Tag], language: Language) -> list[str]:
    """The steps that a seen tag asks for, in the document's order."""
    return [step.said(language) for step in document.prepare if set(step.tags) & set(tags)]
