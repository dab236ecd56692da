"""Stage `rule`: the rules for the thing in the photo, and the steps that are still to do. No call, no I/O.

Both are computed from tags and tables, never by a language model, so no text in a picture can earn a reward.
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
    """The rules that apply. `found` is False if no document exists; then the other fields are empty.

    `item`: the item that the rules were chosen for, if it is a known one. `steps`: in order.
    `insufficiencies`: steps that the photo shows as not done yet. All texts are in `language`.
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
    """Finds the rules for the output of `vision`, in the language of the question."""
    seen = ctx.outputs.get(Seen)
    return apply_rules(seen.middle, seen.name, seen.tags, language_of(ctx.input.user_input))


def apply_rules(middle: Middle, minor: str | None, tags: Sequence[Tag], language: Language) -> Rules:
    """Finds the rules for a class, the name of an item, and its state."""
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
        covers=document.covers.in_language(language),
        item=item.text.in_language(language) if item else None,
        steps=in_language(disposal_steps(document, special, asked), language),
        insufficiencies=in_language(asked, language),
        not_accepted=in_language(document.not_accepted, language),
    )


def special_rule(document: Document, item: Item | None) -> ItemRule:
    """Returns the document's rule for this item, an empty one if there is none."""
    return document.by_item.get(item.name, ItemRule()) if item else ItemRule()


def asked_for(document: Document, special: ItemRule, tags: Sequence[Tag]) -> list[Step]:
    """Returns the steps that the seen tags ask for, in order.

    If the item has a step of its own for a tag, the document's general steps for that tag are left out.
    """
    wanted = set(tags) - set(special.allows)
    own = [step for step in special.steps if wanted & set(step.tags)]
    wanted -= {tag for step in own for tag in step.tags}
    return [*(step for step in document.prepare if wanted & set(step.tags)), *own]


def disposal_steps(document: Document, special: ItemRule, asked: Sequence[Step]) -> list[Text]:
    """Returns all steps in order: the preparation, the steps of the item, the disposal.

    A thing that belongs elsewhere in this state needs only the steps that were asked for, the place included.
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
    """Returns the steps that other states than those in the photo would need."""
    steps = [step for step in document.prepare if step.when != "always"] if special.common else []
    texts = in_language([*steps, *(step for step in special.steps if step.when != "always")], rules.language)
    return [text for text in texts if text not in rules.steps]


def in_language(texts: Iterable[Text], language: Language) -> list[str]:
    """Returns the texts in `language`, each once."""
    return list(dict.fromkeys(text.in_language(language) for text in texts))
