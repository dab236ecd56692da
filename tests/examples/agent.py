"""An example agent: the model may look up opening hours before it answers. It needs `eco2.pipeline` only."""

from typing import Literal

from pydantic import BaseModel, Field

from eco2.pipeline import (
    JSON,
    Call,
    Context,
    Message,
    Outputs,
    PermanentError,
    Pipeline,
    Stage,
    Tool,
    ToolCall,
    language_model_required,
)

MAX_TURNS = 6
HOURS = {"weekday": "9 to 18", "saturday": "10 to 14", "sunday": "closed"}


class Question(BaseModel):
    """The input: what clients send."""

    text: str = Field(min_length=1, max_length=2000)


class OpeningHours(BaseModel):
    """The arguments of the tool."""

    day: Literal["weekday", "saturday", "sunday"]


class Answer(BaseModel):
    """The stage's output."""

    text: str


TOOLS = (Tool("opening_hours", "Returns when the desk is open.", OpeningHours),)


async def answer(context: Context[Question]) -> Answer:
    messages: tuple[Message, ...] = ()
    for _ in range(MAX_TURNS):
        call = Call(
            kind="answer",
            system="You answer for the help desk. Look up opening hours, never guess them.",
            text=context.input.text,
            user_text=context.input.text,  # its tokens are bounded, whatever the user wrote
            schema=str,
            max_tokens=300,
            messages=messages,
            tools=TOOLS,
        )
        reply = await context.call(call)  # recorded: a later run gets the same reply, and pays nothing
        if not reply.tool_calls:
            return Answer(text=reply.value)
        messages += (reply.message, *(wanted.result(use(wanted)) for wanted in reply.tool_calls))
    raise PermanentError(f"the model asked for a tool in each of {MAX_TURNS} turns", "NO_ANSWER")


def use(wanted: ToolCall) -> str:
    """Runs a tool. Its arguments are validated; another one would be another `case`."""
    match wanted.arguments:
        case OpeningHours(day=day):
            return f"{day}: {HOURS[day]}"
    raise LookupError(wanted.name)


def result(outputs: Outputs | None) -> JSON:
    """Returns the result for clients; `None` stands for a job that did not complete."""
    return {"answer": outputs.get(Answer).text if outputs else None}


agent: Pipeline[Question] = Pipeline(
    name="agent",
    input=Question,
    stages=(Stage("answer", answer, Answer),),
    result=result,
    check_local=language_model_required,
)
