"""Pipelines whose jobs have two calls each, of very different sizes, or one short call. The size follows from
the job's number."""

from random import Random

from pydantic import BaseModel

from eco2.pipeline import JSON, Call, Context, Outputs, Pipeline, Stage

LEAST, MOST = 30, 2600
"""Words of a job's text; the most is about 3,700 tokens."""
WORDS = (
    "bottle", "paper", "cap", "rinse", "label", "carton", "battery", "please", "glass", "where",
    "우유팩", "헹군", "뒤", "말려서", "분리수거함에", "넣어", "주세요", "스티로폼", "상자", "유리병",
)  # fmt: skip


class Letter(BaseModel):
    """The input. `number`: of the job, as in the provider's log."""

    number: int


class Gist(BaseModel):
    """The letter's summary."""

    text: str


class Title(BaseModel):
    """The letter's title."""

    text: str


def letter(number: int) -> str:
    """Returns a letter; lengths are spread evenly over orders of magnitude."""
    dice = Random(number)
    words = round(LEAST * (MOST / LEAST) ** dice.random())
    return f"(case {number}) " + " ".join(dice.choices(WORDS, k=words))


async def read(context: Context[Letter]) -> Gist:
    system = "Say in three sentences what the letter is about."
    call = Call("read", system, letter(context.input.number), str, max_tokens=200, stream=True)
    return Gist(text=(await context.call(call)).value)


async def name(context: Context[Letter]) -> Title:
    gist = context.outputs.get(Gist).text[:80]
    text = f"(case {context.input.number}) {gist}"
    return Title(text=(await context.call(Call("name", "Find a title.", text, str, max_tokens=60))).value)


def result(outputs: Outputs | None) -> JSON:
    return {"title": outputs.get(Title).text if outputs else None}


mixed: Pipeline[Letter] = Pipeline(
    "mixed", Letter, (Stage("read", read, Gist), Stage("name", name, Title)), result
)


async def jot(context: Context[Letter]) -> Title:
    text = f"(case {context.input.number}) {context.input.number % 7} bottles"
    return Title(text=(await context.call(Call("note", "Find a title.", text, str, max_tokens=60))).value)


note: Pipeline[Letter] = Pipeline("note", Letter, (Stage("note", jot, Title),), result)
