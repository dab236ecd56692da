"""A model that answers by a script: values, failures and faults, by the kind of the call."""

import asyncio
import enum
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from eco2.call import Answer, Call, Reply, Usage, Vectors
from eco2.ports import no_gate


class Fault(enum.Enum):
    """Something that happens to a call in the place of an answer; the next try gets the next answer.

    `eco2.testing.installation` makes it happen, and so does `run`; with a `World` kill processes yourself.
    """

    CRASH = "crash"
    """The worker ends as by `kill -9` while the call is in flight; another one takes over."""
    TIMEOUT = "timeout"
    """No answer comes within the time-out of a call."""
    DUPLICATE = "duplicate"
    """The job's order is delivered once more while the call is in flight; then it gets the next answer."""


Answered = str | BaseModel | Vectors | Reply[Any]
"""An answer: its value alone, or a whole reply, with usage and requests for tools."""
Scripted = Answered | Exception | Fault
"""One entry of a script: an answer, an exception to raise, or a fault."""
Script = Scripted | list[Scripted] | Callable[[Call[Any]], Scripted]
"""The same answer to every call, a list in the order of the calls, or a function of the call."""


@dataclass
class ScriptedModel:
    """Answers each call after `seconds`, as `answers` says for its kind.

    `cost`: USD of each call. `calls`: kind and job of each call that was sent, in order; `sent`: the calls.
    `problems`: calls that the script has no answer for. `peak`: the most calls that were in flight at once.
    """

    answers: Mapping[str, Script] = field(default_factory=dict)
    seconds: float = 1.0
    cost: Decimal | None = None
    calls: list[tuple[str, str]] = field(default_factory=list)
    sent: list[Call[Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    faults: asyncio.Queue[tuple[Fault, str] | None] = field(default_factory=asyncio.Queue)
    in_flight: int = 0
    peak: int = 0
    taken: Counter[str] = field(default_factory=Counter)

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        before_send: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        """Answers the call: `eco2.ports.Model`."""
        await before_send()
        self.calls.append((call.kind, job_id))
        self.sent.append(call)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            await asyncio.sleep(self.seconds)
            value = await self.answer(call, job_id, on_text)
        finally:
            self.in_flight -= 1
        usage = Usage(10, 0, 5, self.cost)
        reply: Reply[Any] = value if isinstance(value, Reply) else Reply(value, "scripted", usage)
        if not isinstance(reply.value, call.schema):
            raise self.problem(call, f"its answer is a {type(reply.value).__name__}")
        return reply

    async def answer(self, call: Call[Answer], job_id: str, on_text: Callable[[str], None]) -> Answered:
        """Returns the script's next answer to the call, after its faults. Raises what the script says."""
        while isinstance(answer := self.take(call), Fault):
            self.faults.put_nowait((answer, job_id))
            if answer is not Fault.DUPLICATE:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(self.seconds)  # so that it is in flight when the order comes
        if isinstance(answer, Exception):
            raise answer
        if call.stream and isinstance(answer, str):
            on_text(answer)
        return answer

    def take(self, call: Call[Any]) -> Scripted:
        """Takes the script's next entry for the call."""
        script = self.answers.get(call.kind)
        if script is None:
            raise self.problem(call, f"the script has only {', '.join(self.answers) or 'nothing'}")
        if isinstance(script, str | BaseModel | Vectors | Reply | Exception | Fault):
            return script
        if callable(script):
            return script(call)
        self.taken[call.kind] += 1
        if self.taken[call.kind] > len(script):
            raise self.problem(call, f"the script has {len(script)} answers for its kind")
        return script[self.taken[call.kind] - 1]

    def problem(self, call: Call[Any], why: str) -> AssertionError:
        """Notes a gap of the script; returns what the call raises."""
        self.problems.append(f"the call {call.kind!r} wants a {call.schema.__name__}: {why}")
        return AssertionError(self.problems[-1])
