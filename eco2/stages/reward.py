"""Stage `reward`: the character that a person wins for a recyclable that is ready for its bin. No call.

Given when the thing is a recyclable of a known middle, a rule was found, and the photo shows nothing that is
still to be done. A classifier without eyes for states reports none, so it judges by the class alone; the
answer says that it could not see the condition.
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
    """What clients read. `match_reason`: "middle>name"; `type`: the middle that the character stands for."""

    name: str
    dialog: str
    match_reason: str
    type: str


class Reward(BaseModel):
    """The stage's output: what was won, or None."""

    won: Won | None


async def run(ctx: Context[ScanInput]) -> Reward:
    """The reward for the outputs of `vision` and `rule`."""
    seen, rules = ctx.outputs.get(Seen), ctx.outputs.get(Rules)
    return Reward(won=character_won(seen, rules.language) if earned(seen, rules) else None)


def earned(seen: Seen, rules: Rules) -> bool:
    """Whether the thing can go into its bin as it is."""
    return seen.major is Major.RECYCLABLE and rules.found and not rules.insufficiencies


def character_won(seen: Seen, language: Language) -> Won:
    """The character of the middle."""
    table = characters()
    character = table.get(seen.middle, table[DEFAULT])
    return Won(
        name=character.name,
        dialog=character.dialog.said(language),
        match_reason=f"{seen.middle.value}>{seen.name}" if seen.name else seen.middle.value,
        type=seen.middle.value,
    )


@cache
def characters() -> Mapping[str, Character]:
    """The characters by middle, and the one for everything else under `default`; read once."""
    table = files("eco2.stages").joinpath("data", "characters.json").read_text(encoding="utf-8")
    return TypeAdapter(dict[str, Character]).validate_python(json.loads(table))
