"""The client without an event loop: the same methods and errors, many threads, and processes that fork."""

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from eco2 import client
from eco2.client import ClientJob, NotFinished, Refused, Unavailable, sync
from eco2.errors import ConfigurationError
from tests.integration.test_gateway_client import metrics
from tests.support.gateways import PATIENCE, SEQS, Cluster, cluster, eventually, life

ROOT = Path(__file__).parents[2]
BEHIND = {"submit_lines", "results_at_once"}
"""Public for the client without an event loop, and no use to others."""


def signatures(kind: type) -> dict[str, list[str]]:
    """The public methods and the names of their arguments; a name as in the client without a loop."""
    return {
        name.replace("aclose", "close"): list(inspect.signature(method).parameters)
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if (not name.startswith("_") or name == "__init__") and name not in BEHIND
    }


def test_both_clients_have_the_same_methods_and_names() -> None:
    assert signatures(sync.Client) == signatures(client.Client)
    assert set(sync.__all__) == set(client.__all__)
    assert inspect.signature(sync.submit) == inspect.signature(client.submit).replace()


async def in_thread(world: Cluster, script: Callable[[sync.Client], object]) -> None:
    """Runs a script as a program without an event loop would."""

    def run() -> None:
        with sync.Client(world.gateways[0].url) as one:
            script(one)

    await asyncio.to_thread(run)
    assert "eco2.client.sync" not in {thread.name for thread in threading.enumerate()}


async def test_submit_follow_and_fetch(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x" * 70)
    async with cluster() as world:
        world.worker.at_once = True

        def script(one: sync.Client) -> None:
            job = one.submit("echo", {"text": "a"}, key="k")
            assert one.submit("echo", {"text": "a"}, key="k") == job
            events = list(one.events(job))
            assert [event.seq for event in events] == SEQS
            assert one.result(job) == events[-1].result
            assert list(one.events(job, events[-1].id)) == []
            with (tmp_path / "a.jpg").open("rb") as opened:
                for file in (str(tmp_path / "a.jpg"), b"x" * 70, opened):
                    one.submit("photo", {"question": "?"}, files={"image": file})
            assert sync.submit("echo", {"text": "a"}, base_url=world.gateways[0].url, key="k") == job

        await in_thread(world, script)
        await eventually(lambda: len(world.worker.orders) == 4)
        assert [job.input.get("size") for job in world.worker.orders] == [None, 70, 70, 70]


async def test_many_jobs_and_their_results_with_inputs_of_the_callers_thread() -> None:
    async with cluster() as world:
        world.worker.at_once = True
        threads = set()

        def inputs() -> Iterator[dict[str, object]]:
            for number in range(50):
                threads.add(threading.current_thread())
                yield {"text": str(number)} if number != 7 else {}

        def script(one: sync.Client) -> None:
            answers = list(one.submit_many("echo", inputs(), keys=map(str, range(50))))
            assert threads == {threading.current_thread()}
            assert isinstance(answers[7], Refused)
            jobs = [answer for answer in answers if isinstance(answer, ClientJob)]
            assert len(jobs) == 49
            again = one.submit_many("echo", inputs(), keys=map(str, range(50)))
            results = one.results(answer for answer in again if isinstance(answer, ClientJob))
            assert [result["task_id"] for result in results if isinstance(result, dict)] == [
                job.id for job in jobs
            ]

        await in_thread(world, script)


async def test_jobs_are_given_less_time() -> None:
    async with cluster() as world:

        def script(one: sync.Client) -> None:
            one.submit("echo", {"text": "a"}, max_wait=2, timeout=0.5, max_usd=1, priority="batch")
            many = one.submit_many("echo", [{"text": "b"}], max_wait=2, timeout=0.5, max_usd=1)
            assert len(list(many)) == 1

        await in_thread(world, script)
        await eventually(lambda: len(world.worker.orders) == 2)
        assert [(job.max_wait, job.timeout, job.max_usd, job.priority) for job in world.worker.orders] == [
            (2.0, 0.5, 1.0, "batch")
        ] * 2


async def test_a_job_is_cancelled() -> None:
    async with cluster() as world:

        def script(one: sync.Client) -> None:
            job = one.submit("echo", {"text": "a"})
            cancelled = one.cancel(job)
            assert cancelled["status"] == "cancelled"
            assert cancelled == one.cancel(job) == one.result(job)

        await in_thread(world, script)


async def test_the_errors_are_the_same() -> None:
    async with cluster() as world:

        def script(one: sync.Client) -> None:
            with pytest.raises(Refused, match="Field required") as refused:
                one.submit("echo", {})
            assert (refused.value.status, refused.value.code) == (422, "INVALID_REQUEST")
            with pytest.raises(NotFinished):
                one.result(one.submit("echo", {"text": "a"}), timeout=0.05)
            with pytest.raises(TypeError, match="give a path"):
                one.submit("photo", {}, files={"image": 7})  # type: ignore[dict-item]

        await in_thread(world, script)
    with pytest.raises(ConfigurationError):
        sync.Client("localhost")
    with sync.Client("http://127.0.0.1:9", patience=0.1) as nobody, pytest.raises(Unavailable):
        nobody.submit("echo", {})


async def test_threads_share_one_client_and_one_thread_behind_it() -> None:
    async with cluster() as world:
        world.worker.at_once = True

        def script(one: sync.Client) -> None:
            def work(number: int) -> str:
                job = one.submit("echo", {"text": str(number)})
                assert [event.seq for event in one.events(job)] == SEQS
                return str(one.result(job)["task_id"])

            with ThreadPoolExecutor(16) as pool:
                ids = list(pool.map(work, range(64)))
            assert len(set(ids)) == 64
            assert [thread.name for thread in threading.enumerate()].count("eco2.client.sync") == 1

        await in_thread(world, script)


async def test_leaving_a_loop_closes_its_stream() -> None:
    async with cluster() as world:

        def script(one: sync.Client) -> None:
            job = one.submit("echo", {"text": "a"})
            for event in one.events(job):
                assert event.name == "queued"
                break
            with closing(one.events(job)) as events:  # type: ignore[type-var]
                next(events)

        await in_thread(world, script)
        await eventually(lambda: b'eco2_sse_connections{pipeline="echo"} 0.0' in metrics(world))


async def test_a_close_ends_what_other_threads_wait_for() -> None:
    async with cluster() as world:
        one = sync.Client(world.gateways[0].url)
        job = await asyncio.to_thread(one.submit, "echo", {"text": "a"})
        waiting = [asyncio.create_task(asyncio.to_thread(one.result, job)) for _ in range(2)]
        following = asyncio.create_task(asyncio.to_thread(lambda: list(one.events(job))))
        await eventually(lambda: b'eco2_sse_connections{pipeline="echo"} 1.0' in metrics(world))
        await asyncio.to_thread(one.close)
        for task in (*waiting, following):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(task, PATIENCE)
        for call in (one.submit, lambda *_: one.result(job)):
            with pytest.raises(Unavailable, match="closed"):
                await asyncio.to_thread(call, "echo", {"text": "a"})
        await asyncio.to_thread(one.close)
        await world.worker.append(*life(job.id))


FORKING = """
import os, sys
from eco2.client.sync import Client, Unavailable
one = Client(sys.argv[1])
job = one.submit("echo", {"text": "parent"})
events = one.events(job)
assert next(events).name == "queued"
if pid := os.fork():
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert one.submit("echo", {"text": "parent again"})
    events.close()
else:
    assert one.submit("echo", {"text": "child"}).id != job.id
    assert next(one.events(job)).name == "queued"
    try:
        next(events)
    except Unavailable as error:
        assert "forked" in str(error)
        one.close()
        os._exit(0)
    os._exit(1)
one.close()
"""


async def test_a_child_process_has_connections_of_its_own_and_the_parent_keeps_its() -> None:
    async with cluster() as world:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, world.gateways[0].url),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(PATIENCE):
            _, errors = await process.communicate()
        assert (process.returncode, errors.decode()) == (0, "")
        await eventually(lambda: len(world.worker.orders) == 3)
        texts = [job.input["text"] for job in world.worker.orders]
        assert texts == ["parent", "child", "parent again"]
