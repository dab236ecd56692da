"""Agent loops and embeddings are durable: each turn is a recorded call that is paid once."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, Field

from eco2.call import (
    Answer,
    Call,
    InvalidAnswer,
    Message,
    Reply,
    Tool,
    ToolCall,
    Usage,
    Vectors,
    embedding,
)
from eco2.calls.replies import identify, reply_from_json, reply_to_json
from eco2.errors import PermanentError
from eco2.llm.local import LocalModel
from eco2.pacer import Limits
from eco2.pipeline import Context
from eco2.ports import no_gate
from eco2.testing.clock import virtual
from tests.support.conversations import TOOLS
from tests.support.engine_fixtures import single
from tests.support.provider_windows import fullest
from tests.support.world import Draft, Question, Remote, ScriptedModel, World, until


class Add(BaseModel):
    first: int
    second: int = Field(alias="2nd")


ADD = Tool("add", "Adds two numbers.", Add)
PAID = Usage(10, 0, 5, Decimal("0.001"))


@dataclass
class Agent:
    """Adds 1 to the last result by the tool, until it has `rounds` results; each turn takes a second.

    Embeds a text as its length.
    """

    rounds: int = 5
    calls: list[Call[Any]] = field(default_factory=list)
    in_flight: int = 0

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        await gate()
        self.calls.append(call)
        self.in_flight += 1
        try:
            await asyncio.sleep(1)
        finally:
            self.in_flight -= 1
        results = [message.text for message in call.messages if message.role == "tool"]
        value: object = Vectors([(float(len(text)),) for text in call.texts])
        wanted: tuple[ToolCall, ...] = ()
        if not call.texts:
            value = "" if len(results) < self.rounds else f"It is {results[-1]}."
        if call.tools and not value:
            arguments = Add.model_validate({"first": int((results or ["0"])[-1]), "2nd": 1})
            wanted = (ToolCall(f"c{len(results)}", "add", arguments),)
        assert isinstance(value, call.schema)
        return Reply(value, "agent", PAID, wanted)


async def loop(context: Context[Question]) -> Draft:
    """An agent loop in plain Python."""
    messages: tuple[Message, ...] = ()
    while True:
        call = Call("agent", "Add.", context.input.text, str, 100, messages=messages, tools=(ADD,))
        reply = await context.call(call)
        if not reply.tool_calls:
            return Draft(text=reply.value)
        messages += (reply.message,)
        for wanted in reply.tool_calls:
            assert isinstance(wanted.arguments, Add)
            messages += (wanted.result(str(wanted.arguments.first + wanted.arguments.second)),)


@pytest.mark.parametrize("turn", range(1, 7))
@pytest.mark.parametrize("limits", [None, Limits(500.0, 200_000.0)], ids=["free", "budget"])
@virtual
async def test_an_agent_whose_worker_is_killed_pays_for_no_turn_twice(
    turn: int, limits: Limits | None
) -> None:
    world, first, second = World(), Agent(), Agent()
    async with world.process() as gateway:
        victim = await world.start(pipeline=single(loop), remotes=[Remote("a", first, limits)], name="w1")
        job = (await gateway.submit()).job
        await until(lambda: len(first.calls) == turn and bool(first.in_flight))
        await victim.kill()
        async with world.process(pipeline=single(loop), remotes=[Remote("a", second, limits)], name="w2"):
            state = await gateway.ended(job)
    assert state.outputs["draft"] == {"text": "It is 5."}
    assert (len(first.calls), len(second.calls)) == (turn, 7 - turn)
    assert second.calls[0].messages == first.calls[-1].messages
    assert state.result is not None
    assert state.result["usage"]["draft"]["calls"] == 6  # type: ignore[index]


TEXTS = ("one", "three")


async def embed(context: Context[Question]) -> Draft:
    vectors = (await context.call(embedding(TEXTS, "small"))).value
    await context.call(Call("after", "", "text", str, 10))
    return Draft(text=str([vector[0] for vector in vectors]))


@virtual
async def test_an_embedding_goes_to_its_model_under_its_budget_and_is_paid_once() -> None:
    """Whatever model the job names; and no other call goes there."""
    world, chat, small = World(), ScriptedModel(), Agent()
    remotes = [Remote("small", small, Limits(60.0, 1000.0), embeds=True), Remote("chat", chat)]
    async with world.process() as gateway:
        victim = await world.start(pipeline=single(embed), remotes=remotes, name="w1")
        job = (await gateway.submit(model="chat")).job
        await until(lambda: bool(chat.in_flight))
        await victim.kill()
        async with world.process(pipeline=single(embed), remotes=remotes, name="w2"):
            state = await gateway.ended(job)
            other = await gateway.ended((await gateway.submit()).job)
    assert state.outputs["draft"] == other.outputs["draft"] == {"text": "[3.0, 5.0]"}
    assert [call.texts for call in small.calls] == [TEXTS, TEXTS]
    assert [kind for kind, _ in chat.calls] == ["after", "after", "after"]


@pytest.mark.parametrize(
    ("call", "known"),
    [
        (embedding(TEXTS, "chat"), "use one of: small"),
        (embedding(TEXTS, "none"), "use one of: small"),
        (Call("ask", "", "", str, 10, model="small"), "use one of: chat"),
    ],
    ids=["chat embeds", "unknown", "embedder chats"],
)
@virtual
async def test_a_call_that_its_model_cannot_answer_is_refused_unsent(call: Call[Any], known: str) -> None:
    async def ask(context: Context[Question]) -> Draft:
        with pytest.raises(PermanentError, match=known) as refused:
            await context.call(call)
        assert refused.value.code == "UNSUPPORTED_MODEL"
        return Draft(text="")

    agent = Agent()
    remotes = [Remote("small", agent, embeds=True), Remote("chat", agent)]
    async with World().process(pipeline=single(ask), remotes=remotes) as process:
        assert (await process.ended((await process.submit()).job)).status == "completed"
    assert agent.calls == []


class Blind:
    def classify(self, data: bytes) -> tuple[()]:
        raise AssertionError(data)


@virtual
async def test_the_local_model_answers_an_agent_by_its_fallback_only() -> None:
    async def ask(context: Context[Question]) -> Draft:
        call = Call("agent", "", "", str, 10, messages=(Message("user", "?"),), tools=(ADD,))
        with pytest.raises(PermanentError, match="needs a language model") as refused:
            await context.call(call)
        assert refused.value.code == "MODEL_REQUIRED"
        with pytest.raises(PermanentError, match="missing in the settings"):
            await context.call(embedding(TEXTS, "small"))
        return Draft(text=(await context.call(replace(call, fallback=lambda _: "by rule"))).value)

    remotes = [Remote("local", LocalModel(Blind()))]
    async with World().process(pipeline=single(ask), remotes=remotes) as process:
        state = await process.ended((await process.submit()).job)
    assert state.outputs["draft"] == {"text": "by rule"}


@virtual
async def test_an_unfit_call_of_a_tool_is_recorded_and_can_be_repaired() -> None:
    def script(kind: str, _: str) -> None:
        if kind == "agent":
            raise InvalidAnswer("unfit", "scripted", PAID, '{"first": "x"}', "first: no number")

    async def mending(context: Context[Question]) -> Draft:
        call = Call("agent", "", "Add.", str, 10, tools=(ADD,))
        try:
            await context.call(call)
        except InvalidAnswer as error:
            said = (Message("assistant", error.text), Message("user", error.problem))
            return Draft(text=(await context.call(replace(call, kind="again", messages=said))).value)
        raise AssertionError("the answer was unfit")

    world, model = World(), ScriptedModel(script=script)
    async with world.process() as gateway:
        victim = await world.start(model, single(mending))
        job = (await gateway.submit()).job
        await until(lambda: len(model.calls) == 2)
        await victim.kill()
        async with world.process(model, single(mending)):
            state = await gateway.ended(job)
    assert state.status == "completed"
    assert [kind for kind, _ in model.calls] == ["agent", "again", "again"]


# --- keys and records

ADDED = ToolCall("c", "add", Add.model_validate({"first": 1, "2nd": 2}))
ASK = Call("agent", "system", "text", str, 100, tools=(ADD,))
EMBED = embedding(TEXTS, "small")


def test_the_digest_is_of_conversation_tools_and_options() -> None:
    turns = (Message("assistant", "", tool_calls=(ADDED,)), ADDED.result("3"))
    other = replace(ADDED, arguments=Add.model_validate({"first": 1, "2nd": 3}))
    calls: list[Call[Any]] = [
        ASK,
        replace(ASK, tools=()),
        replace(ASK, tools=(*ASK.tools, *TOOLS)),
        replace(ASK, tools=(replace(ADD, description="other"),)),
        replace(ASK, tools=(replace(ADD, parameters=TOOLS[0].parameters),)),
        replace(ASK, tool_choice="add"),
        replace(ASK, tool_choice="required"),
        replace(ASK, messages=turns),
        replace(ASK, messages=(replace(turns[0], tool_calls=(other,)), turns[1])),
        replace(ASK, messages=(turns[0], replace(turns[1], text="4"))),
        replace(ASK, messages=(*turns, Message("user", "text", ("https://example.org/a.jpg",)))),
        replace(ASK, messages=(*turns, Message("user", "text \ud800"))),
        replace(ASK, effort="high"),
        replace(ASK, seed=0),
        replace(ASK, seed=1),
        replace(ASK, temperature=0.0),
        replace(ASK, model="other"),
        EMBED,
        embedding(("onethree",), "small"),
        embedding(TEXTS, "large"),
        embedding(TEXTS, "small", dimensions=8),
    ]
    digests = [identify(call, None)[1] for call in calls]
    assert len(set(digests)) == len(calls)
    assert [identify(replace(call), None)[1] for call in calls] == digests
    assert identify(replace(ASK, model="m"), "pinned") == identify(ASK, "m")


def test_the_digest_of_a_call_without_them_is_as_in_the_records_of_before() -> None:
    digest = "5b199510ab7344d48c40f55ac4d1e08dc9f7bec3f0e5b2e8f6580ce33327ee45"
    assert identify(Call("sum", "system", "text", str, 100), None)[1] == digest


@pytest.mark.parametrize(
    ("call", "reply"),
    [
        (ASK, Reply("", "m", PAID, (ADDED, replace(ADDED, id="d")))),
        (ASK, Reply("done", "m", PAID)),
        (EMBED, Reply(Vectors([(0.5, -1.25), (float.fromhex("0x1.99999ap-4"), 0.0)]), "m", PAID)),
        (Call("aliased", "", "", Add, 10), Reply(ADDED.arguments, "m", PAID)),
    ],
    ids=["tools", "text", "vectors", "alias"],
)
def test_a_reply_survives_the_journal(call: Call[Any], reply: Reply[Any]) -> None:
    back = reply_from_json(call, reply_to_json(reply))
    assert back == reply
    assert isinstance(back, Reply)
    assert type(back.value) is type(reply.value)


def test_a_record_of_another_tool_or_of_broken_vectors_is_no_reply() -> None:
    kept = reply_to_json(Reply("", "m", PAID, (ADDED,)))
    assert reply_from_json(replace(ASK, tools=TOOLS), kept) is None
    assert reply_from_json(replace(ASK, tools=(replace(TOOLS[0], name="add"),)), kept) is None
    for value in (None, "AAAA", [3], ["?"], ["AAA="]):
        assert reply_from_json(EMBED, {**kept, "value": value, "tool_calls": []}) is None


def test_vectors_are_kept_in_four_bytes_a_number() -> None:
    vectors = Vectors([tuple(number / 7 for number in range(1536))])
    (packed,) = vectors.pack()
    assert re.fullmatch(r"[\w+/]+=*", packed)
    assert len(packed) <= 1536 * 4 * 4 / 3 + 4
    assert Vectors.unpack([packed]).pack() == [packed]


@virtual
async def test_embeddings_stay_within_the_limits_of_their_provider() -> None:
    """Texts whose tokens cannot be guessed, at a limit that they would pass at once."""

    async def many(context: Context[Question]) -> Draft:
        calls = (context.call(embedding([f"{number} " + "𒀀" * 20], "small")) for number in range(20))
        await asyncio.gather(*calls)
        return Draft(text="")

    sent: list[tuple[float, float]] = []

    class Counting(Agent):
        async def complete(
            self,
            call: Call[Answer],
            job_id: str,
            on_text: Callable[[str], None],
            gate: Callable[[], Awaitable[None]] = no_gate,
        ) -> Reply[Answer]:
            async def through() -> None:
                await gate()
                sent.append((asyncio.get_running_loop().time(), 82.0))

            reply = await super().complete(call, job_id, on_text, through)
            return replace(reply, usage=Usage(82))

    remotes = [Remote("small", Counting(), Limits(600.0, 1000.0), embeds=True)]
    async with World().process(pipeline=single(many), remotes=remotes) as process:
        state = await process.ended((await process.submit(max_wait=900)).job)
    assert state.status == "completed"
    assert len(sent) == 20
    assert fullest(sent) <= 1000
