"""Stage `reward`: the character that a person wins for a recyclable that is ready for its bin. No call.

It is given if the thing is a recyclable of a known middle, a rule was found, and the photo shows nothing that
is still to be done. An image classifier reports no states, so then the class alone decides; the answer admits
that the condition could not be seen.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files

from pydantic import BaseModel, TypeAdapter

from eco2.pipeline import Context
from eco2.stages.language import Frozen, Language, Text
from eco2.stages.request import ScanInput
from eco2.stages.rule import Rules
from eco2.stages.taxonomy import Major
from eco2.stages.vision import Seen

DEFAULT = "default"


class Character(Frozen):
    """One of the thirteen. `name` is Korean in both languages."""

    name: str
    dialog: Text


class Won(BaseModel):
    """The reward that clients read. `match_reason`: "middle>name"; `type`: the character's middle."""

    name: str
    dialog: str
    match_reason: str
    type: str


class Reward(BaseModel):
    """The stage's output: the reward, or None."""

    won: Won | None


async def run(ctx: Context[ScanInput]) -> Reward:
    """Decides the reward by the outputs of `vision` and `rule`."""
    seen, rules = ctx.outputs.get(Seen), ctx.outputs.get(Rules)
    return Reward(won=character_won(seen, rules.language) if earned(seen, rules) else None)


def earned(seen: Seen, rules: Rules) -> bool:
    """Returns whether the thing can go into its bin as it is."""
    return seen.major is Major.RECYCLABLE and rules.found and not rules.insufficiencies


def character_won(seen: Seen, language: Language) -> Won:
    """Returns the reward for the character of the middle."""
    table = characters()
    character = table.get(seen.middle, table[DEFAULT])
    return Won(
        name=character.name,
        dialog=character.dialog.in_language(language),
        match_reason=f"{seen.middle.value}>{seen.name}" if seen.name else seen.middle.value,
        type=seen.middle.value,
    )


@cache
def characters() -> Mapping[str, Character]:
    """Reads the characters once: by middle, and under `default` the one for every other middle."""
    table = files("eco2.stages").joinpath("data", "characters.json").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Character]).validate_python(json.loads(table))
