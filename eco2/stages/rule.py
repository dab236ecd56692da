"""Stage `rule`: which rules apply to what was seen, and what the person still has to do. No call, no I/O.

The steps and what is missing are computed here from tags and tables, never by a language model, so a
picture cannot talk its way to a reward.
"""

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from eco2.pipeline import Context
from eco2.stages.documents import Document, ItemRule, Step, documents
from eco2.stages.language import Language, Text, language_of
from eco2.stages.request import ScanInput
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Item, Middle, taxonomy
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
    return apply_rules(seen.middle, seen.name, seen.tags, language_of(ctx.input.user_input))


def apply_rules(middle: Middle, minor: str | None, tags: Sequence[Tag], language: Language) -> Rules:
    """What holds for this class, item and state."""
    document = documents().get(middle)
    if document is None:
        return Rules(found=False, language=language)
    item = taxonomy().find(middle, minor)
    special = special_rule(document, item)
    asked = asked_for(document, special, tags)
    return Rules(
        found=True,
        language=language,
        key=document.key,
        category=middle.value,
        covers=document.covers.said(language),
        item=item.text.said(language) if item else None,
        steps=_said(disposal_steps(document, special, asked), language),
        insufficiencies=_said(asked, language),
        not_accepted=_said(document.not_accepted, language),
    )


def special_rule(document: Document, item: Item | None) -> ItemRule:
    """What the document says of this item; nothing special by default."""
    return document.by_item.get(item.name, ItemRule()) if item else ItemRule()


def asked_for(document: Document, special: ItemRule, tags: Sequence[Tag]) -> list[Step]:
    """The steps that the seen tags ask for, in order. Where the item has a step of its own for a tag, the
    document's general answer to that tag is not asked for."""
    wanted = set(tags) - set(special.allows)
    own = [step for step in special.steps if wanted & set(step.tags)]
    wanted -= {tag for step in own for tag in step.tags}
    return [*(step for step in document.prepare if wanted & set(step.tags)), *own]


def disposal_steps(document: Document, special: ItemRule, asked: Sequence[Step]) -> list[Text]:
    """All steps in order: preparation, what is special to the item, putting out.

    What belongs elsewhere in this state needs only what was asked for, and is put out as that step says.
    """
    if elsewhere := [step for step in asked if step.when == "elsewhere"]:
        return [*(step for step in asked if step.when != "elsewhere"), *elsewhere]
    steps = [
        step
        for step in (*document.prepare, *special.steps)
        if step in asked or (step.when == "always" and (special.common or step in special.steps))
    ]
    return [*steps, special.put_out or document.put_out]


def other_states(document: Document, special: ItemRule, rules: Rules) -> list[str]:
    """What would have to be done in states that the photo does not show."""
    steps = [step for step in document.prepare if step.when != "always"] if special.common else []
    texts = _said([*steps, *(step for step in special.steps if step.when != "always")], rules.language)
    return [text for text in texts if text not in rules.steps]


def _said(texts: Iterable[Text], language: Language) -> list[str]:
    """The texts in `language`, none twice."""
    return list(dict.fromkeys(text.said(language) for text in texts))
