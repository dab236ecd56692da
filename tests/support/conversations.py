"""Draws calls with conversations and tools, for hypothesis: any text, in an order that is allowed."""

import base64
import io
from typing import Literal

from hypothesis import strategies as st
from PIL import Image
from pydantic import BaseModel, Field

from eco2.call import Call, Message, Tool, ToolCall


class Look(BaseModel):
    """Written for programmers."""

    item: str = Field(description="Its usual name.")
    region: Literal["서울", "부산"] | None


class Place(BaseModel):
    street: str
    number: int


class Measure(BaseModel):
    weight: float
    unit: Literal["g", "kg"]
    places: list[Place]


class Nothing(BaseModel):
    pass


def photo(width: int, height: int) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "green").save(buffer, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


TOOLS = (
    Tool("look_up", "Finds the rule of an item.", Look),
    Tool("measure", '잰다. Says "how much"\nit weighs.', Measure),
    Tool("x", "", Nothing),
)
PHOTOS = ("https://example.org/a.jpg", photo(512, 384), photo(30, 900))

texts = st.one_of(
    st.text(st.characters(categories=("L", "N", "P", "S", "Z", "Cc", "Cs")), max_size=60),
    st.text('abcXYZ 0189{}"\\:,\n', max_size=200),
    st.sampled_from(["", "어디에 버려요?", "Where does this bottle go, please? " * 20, "𒀀𒁀𒂀" * 9]),
)
words = texts.filter(lambda text: text.isprintable())
arguments = st.one_of(
    st.builds(Look, item=words, region=st.sampled_from([None, "서울"])),
    st.builds(
        Measure,
        weight=st.floats(0, 1e6),
        unit=st.just("kg"),
        places=st.lists(st.builds(Place, street=words, number=st.integers(0, 10**9)), max_size=2),
    ),
    st.builds(Nothing),
)
_NAMES = {Look: "look_up", Measure: "measure", Nothing: "x"}


@st.composite
def turns(draw: st.DrawFn) -> tuple[Message, ...]:
    """A message of a user or of the model, or calls of tools with their results."""
    match draw(st.sampled_from(["user", "assistant", "tools"])):
        case "user":
            images = tuple(draw(st.lists(st.sampled_from(PHOTOS), max_size=3)))
            return (Message("user", draw(texts), images),)
        case "assistant":
            return (Message("assistant", draw(texts)),)
        case _:
            given = draw(st.lists(arguments, min_size=1, max_size=3))
            calls = tuple(
                ToolCall(f"call_{place}_9fK3xQ", _NAMES[type(each)], each) for place, each in enumerate(given)
            )
            results = [call.result(draw(texts)) for call in calls]
            return (Message("assistant", draw(texts), tool_calls=calls), *results)


conversations = st.lists(turns(), max_size=4).map(lambda said: tuple(each for turn in said for each in turn))


@st.composite
def tool_calls(draw: st.DrawFn) -> Call[str]:
    """A call with a conversation, several images and tools."""
    tools = tuple(draw(st.lists(st.sampled_from(TOOLS), max_size=3, unique=True)))
    choices = ["auto", *(["none", "required", tools[0].name] if tools else [])]
    return Call(
        kind="agent",
        system="Help with waste. Use the tools.",
        text=draw(st.sampled_from(["", "어디에 버려요?", "Where does this bottle go?"])),
        schema=str,
        max_tokens=draw(st.integers(1, 2000)),
        image=draw(st.sampled_from([None, *PHOTOS])),
        stream=draw(st.booleans()),
        messages=draw(conversations),
        tools=tools,
        tool_choice=draw(st.sampled_from(choices)),
    )
