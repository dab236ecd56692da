"""Counts what stands between an entry and its I/O: functions, files, and messages to the journal.

A function counts once, by file and qualified name, if it is called or resumed between the entry and the I/O.
Counted are the functions of `eco2/`, with its lambdas, which a reader has to follow. Not counted are

- the frames on the stack at the entry, such as the coroutines of the worker that await the stage: they stand
  above the entry, and the event loop passes through them whenever it resumes what is below;
- metrics, logging and the broker adapters (`eco2/metrics`, `eco2/log.py`, `eco2/broker`), which are leaves;
  the clock of these tests (`eco2/testing`);
- comprehensions and generator expressions, which Python 3.12 and later run inside of their function;
- generated code, as the constructors of dataclasses, and what runs in other threads and processes.

Other timers may fire meanwhile, so the figure is what three passes have in common. The bounds are what the
code had when they were written: they may sink, and a change that needs more says why. Two more since
then: `message_json`, by which the text of a call has the same form as a message of a conversation, and
`_open_gate`, which both of the SDK's transports await.

| Functions, files | 0.1 | today |
|---|---|---|
| paid call, in its own task, the budget's leader in another process | 76, 22 | 37, 14 |
| the same with metrics, logging and the broker adapters | 100, 30 | 47, 15 |
| the same without these, in all tasks of both processes | 136, 29 | 117, 23 |
| paid call, in its own task, the budget's leader in the same process | 109, 28 | 37, 14 |
| `POST /scan` to 202, in the request's task | 43, 14 | 42, 14 |
| record of the journal to its frame, in callbacks and the stream's tasks | 26, 9 | 21, 8 |
| messages of a scan of two calls, those of its grants included (0.1: besides them) | 8 | 7 |
| the same at a provider without limits, barrier markers included | 8 | 5 |

The two times of a job brought two functions to its call (it marks that it waits for its turn), and nine to
all tasks (the first grant moves its end). A call that only one provider can take compares none, which is one
function less. The leader has seven more, in a file of their own, for whose turn it is: people before batches,
and owners in turn.
"""

import asyncio
import inspect
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import httpx2
import msgspec
import pytest

import eco2
from eco2.call import Answer, Call, Reply, Usage
from eco2.event import decode_events, encode_batch, encode_event, queued
from eco2.job import Job, new_id
from eco2.llm.openai import OpenAIModel
from eco2.pacer import Limits
from eco2.pipeline import Context, Label
from eco2.ports import no_gate
from eco2.stages import scan
from eco2.testing.clock import VirtualClock, virtual
from tests.support.engine_fixtures import single
from tests.support.gateways import cluster, eventually, life
from tests.support.scripted_provider import USAGE, completion
from tests.support.world import Draft, Process, Question, Remote, ScriptedModel, World, order

ROOT = f"{Path(eco2.__file__).parent}/"
LEAVES = ("metrics/", "log.py", "broker/", "testing/")
INLINED = ("<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>")
PASSES = 3

Function = tuple[str, str]
"""File below `eco2/`, qualified name."""


Counts = Callable[[asyncio.Task[Any] | None], bool]
"""Whether a function counts that runs in this task, or in a callback of the loop (None)."""


class Recorder:
    """Records the functions of `PASSES` passes from an entry to its I/O."""

    def __init__(self) -> None:
        self._passes: list[frozenset[Function]] = []
        self._seen: set[Function] = set()
        self._counts: Counts = lambda _: True
        self._recording = False
        self._above: set[FrameType] = set()

    @property
    def complete(self) -> bool:
        return len(self._passes) == PASSES

    def start(self, counts: Counts) -> None:
        """Begins a pass. Not at the first time: then connections are made and caches filled."""
        self._seen, self._counts, self._recording = set(), counts, True
        self._above = set(outer_frames())
        sys.setprofile(self._profile)

    def stop(self) -> None:
        """Ends the pass that `start` began, if it did."""
        if self._recording:
            sys.setprofile(None)
            self._recording = False
            self._above.clear()
            self._passes.append(frozenset(self._seen))

    def check(self, functions: int, files: int) -> None:
        """Fails with a list by file if the passes have more functions or files in common."""
        assert self.complete
        by_file: defaultdict[str, list[str]] = defaultdict(list)
        for file, name in sorted(frozenset.intersection(*self._passes)):
            by_file[file].append(name)
        counted = sum(map(len, by_file.values()))
        listed = "\n".join(f"  {file}: {', '.join(names)}" for file, names in by_file.items())
        summary = f"{counted} functions in {len(by_file)} files, at most {functions} in {files} wanted"
        print(f"{summary}:\n{listed}")
        assert 0 < counted <= functions, f"{summary}:\n{listed}"
        assert len(by_file) <= files, f"{summary}:\n{listed}"

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(ROOT) or frame in self._above:
            return
        file = code.co_filename.removeprefix(ROOT)
        if not file.startswith(LEAVES) and code.co_name not in INLINED and self._counts(_current_task()):
            self._seen.add((file, code.co_qualname))


@pytest.fixture(autouse=True)
def unprofiled() -> Iterator[None]:
    """Ends a pass that a failure broke off."""
    yield
    sys.setprofile(None)


def outer_frames() -> Iterator[FrameType]:
    """Yields the frames of the present stack, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # the loop looks at its timers
        return None


class Transport(httpx2.AsyncBaseTransport):
    """Stands for the connection to the provider: calls back before the first byte, as a real one does."""

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await request.extensions["trace"]("http11.send_request_headers.started", {})
        self._on_request()
        return httpx2.Response(200, text=completion(message="done", usage=USAGE))


def adapter(on_request: Callable[[], None]) -> OpenAIModel:
    model = OpenAIModel("key", None, "gpt-5.1")
    # The SDK's client stays, with its hooks: they are a part of the way.
    model._client._client._transport = Transport(on_request)
    model._client._client._mounts = {}
    return model


@pytest.mark.parametrize(
    ("leader", "tasks", "functions", "files"),
    [("elsewhere", "own", 40, 14), ("elsewhere", "all", 117, 23), ("here", "own", 40, 14)],
)
@virtual
async def test_from_a_stage_to_the_request(leader: str, tasks: str, functions: int, files: int) -> None:
    recorder, world, made = Recorder(), World(), 0

    async def ask(context: Context[Question]) -> Draft:
        await context.call(Call("draft", "system", context.input.text, str, 100))
        return Draft(text="")

    async def watched(context: Context[Question]) -> Draft:
        nonlocal made
        entered = asyncio.current_task()
        call = Call("draft", "system", context.input.text, str, 100)
        if (made := made + 1) > 1 and not recorder.complete:
            recorder.start(lambda task: tasks == "all" or task is entered)
        await context.call(call)
        return Draft(text="")

    async def join(name: str, stage: Callable[[Context[Question]], Awaitable[Draft]]) -> Process:
        remote = Remote("p", adapter(recorder.stop), Limits(500.0, 200_000.0))
        return await world.start(pipeline=single(stage), name=name, remotes=[remote])

    async with world.process() as gateway:
        workers = []
        if leader == "elsewhere":
            workers.append(await join("leader", ask))
            await gateway.ended((await gateway.submit("first")).job)
        workers.append(await join("asker", watched))
        while not recorder.complete:
            state = await gateway.ended((await gateway.submit(f"call {made}")).job)
            assert state.status == "completed"
            await asyncio.sleep(5)  # the reports of what the last call took are through
        assert [worker.members["p"].budget.leading for worker in workers] == [True, False][: len(workers)]
        for worker in workers:
            await worker.leave()
    recorder.check(functions, files)


def in_new_tasks() -> Counts:
    """Counts what runs in tasks that do not exist yet."""
    existing = asyncio.all_tasks()
    return lambda task: task is not None and task not in existing


async def test_from_a_request_to_202() -> None:
    recorder = Recorder()
    async with cluster(pipelines=(scan,)) as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        for posted in range(1 + PASSES):
            if posted:
                recorder.start(in_new_tasks())
            response = await http.post("/scan", json={"image_url": "https://example.org/a.jpg"})
            assert response.status_code == 202
            recorder.stop()
            await eventually(lambda: bool(world.worker.orders))
            world.worker.orders.clear()
    recorder.check(43, 14)


async def test_from_the_journal_to_a_frame() -> None:
    recorder = Recorder()
    async with cluster() as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        job = (await http.post("/echo", json={"text": "a"})).json()["job_id"]
        existing = asyncio.all_tasks()
        async with http.stream("GET", f"/echo/{job}/events") as response:
            lines = response.aiter_lines()
            await next_id(lines)
            for number, event in enumerate(life(job)[: PASSES + 2]):
                record = encode_batch([encode_event(event)])
                if number > 1:  # the run's start shows nothing, and the first frame is a warm-up
                    recorder.start(lambda task: task not in existing)
                await world.worker.broker.append(record, str(number))
                if number > 0:
                    await next_id(lines)
                recorder.stop()
    recorder.check(21, 8)


async def next_id(lines: AsyncIterator[str]) -> None:
    """Reads one event's frame up to its id."""
    async for line in lines:
        if line.startswith("id:"):
            return


@pytest.mark.parametrize(("limits", "most"), [(Limits(500.0, 200_000.0), 7), (None, 5)])
@virtual
async def test_messages_of_a_scan(limits: Limits | None, most: int) -> None:
    """One worker and one gateway at a calm broker, calls of a second each, and a budget with a leader."""
    world, remotes, before = World(), [Remote("eyes", Eyes(), limits)], 0
    async with world.process() as gateway, world.process(remotes=remotes, pipeline=replace(scan, name="ask")):
        log = world.server.logs[world.topology.stream]
        for _ in range(2):  # in the first scan the worker becomes the leader
            await asyncio.sleep(5)
            before = len(log._records)
            job = scan_job(VirtualClock.now())
            await gateway.journal.announce(queued(job))
            await gateway.order(job)
            state = await gateway.ended(job.id)
            assert (state.status, set(state.outputs)) == ("completed", {stage.name for stage in scan.stages})
        messages = [decode_events(record.body) for record in list(log._records)[before:]]
    listed = "\n".join("  " + ", ".join(type(event).__name__ for event in events) for events in messages)
    print(f"{len(messages)} messages:\n{listed}")
    assert len(messages) <= most, listed


class Eyes(ScriptedModel):
    """Sees a bottle in every picture."""

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        assert call.fallback is not None
        await gate()
        self.calls.append((call.kind, job_id))
        await asyncio.sleep(self.seconds)
        return Reply(
            call.fallback((Label("water bottle", 0.8),) if call.image else ()), "eyes", Usage(10, 0, 5)
        )


def scan_job(now: float) -> Job:
    given = {"image_url": "https://example.org/a.jpg", "user_input": "이거 어떻게 버려요?"}
    return msgspec.structs.replace(order(new_id(now), "", now), input=given)
