"""Checks that the scan's data is complete when a process starts, so that no user's photo finds a gap.

Guarantees after `check()`: every class but 미분류 has a rule document, every class of recyclables a
character, every item is found by each of its names, every situation tag leads to an action or is neutral,
every label of the local classifier in the table leads to an item, and every text exists in both languages.
"""

from collections.abc import Iterator, Mapping

from eco2.errors import ConfigurationError
from eco2.stages.documents import Document, documents
from eco2.stages.labels import known_labels
from eco2.stages.language import Text
from eco2.stages.reward import DEFAULT, Character, characters
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Major, Middle, Taxonomy, major_of, taxonomy


def check() -> None:
    """Reads all data once, about 50 ms. Raises `ConfigurationError` that names every gap and error."""
    try:
        known_labels()
        found = list(problems(taxonomy(), documents(), characters()))
    except (ValueError, OSError) as error:
        raise ConfigurationError(
            f"the scan's data cannot be read: {error}; correct eco2/stages/data"
        ) from error
    if found:
        raise ConfigurationError(
            f"the scan's data is not whole: {'; '.join(found)}; correct eco2/stages/data"
        )


def problems(
    items: Taxonomy, rules: Mapping[Middle, Document], cast: Mapping[str, Character]
) -> Iterator[str]:
    """Yields every gap and error, a few words each."""
    yield from (f"{middle} has no rules" for middle in Middle if middle not in {*rules, Middle.UNKNOWN})
    recyclables = {middle for middle in Middle if major_of(middle) is Major.RECYCLABLE}
    yield from (f"{name} has no character" for name in sorted({*recyclables, DEFAULT} - set(cast)))
    yield from (f"{middle} has no English name" for middle in Middle if not middle.english)
    yield from lost_names(items)
    yield from idle_tags(rules)
    texts = [text for document in rules.values() for text in document.texts()]
    texts += [character.dialog for character in cast.values()]
    yield from (
        f"not in both languages: {text.ko!r}, {text.en!r}" for text in texts if not is_bilingual(text)
    )


def lost_names(taxonomy: Taxonomy) -> Iterator[str]:
    """Yields names by which something else is found, or nothing."""
    for item in taxonomy.items.values():
        for name in (item.name, item.en, *item.also):
            if taxonomy.find(item.middle, name) is not item:
                yield f"{name!r} does not lead to {item.name}"


def idle_tags(rules: Mapping[Middle, Document]) -> Iterator[str]:
    """Yields tags that are not neutral and lead to no step."""
    asking = {tag for document in rules.values() for step in document.steps() for tag in step.tags}
    idle = (tag for tag in Tag if not tag.neutral and tag not in asking)
    return (f"the tag {tag.value!r} leads to no action" for tag in idle)


def is_bilingual(text: Text) -> bool:
    """Returns whether the Korean text has Hangul, and the English one has other characters only."""
    korean, english = (any("가" <= char <= "힣" for char in part) for part in (text.ko, text.en))
    return korean and bool(text.en.strip()) and not english
