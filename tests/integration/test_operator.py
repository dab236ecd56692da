"""The operator's commands on a real installation: dead letters, a lost order, a pause."""

import asyncio
import json
import sys
import time
from asyncio import create_subprocess_exec, subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from eco2.broker.rabbitmq import DeadLetterMessage, RabbitMQ
from eco2.client import ClientJob
from eco2.commands import dead, intake, jobs
from eco2.commands.replay import Wanted, replay_failed
from eco2.commands.session import open_session
from eco2.errors import ConfigurationError, PermanentError
from eco2.event import Paused, Resumed
from eco2.job import new_id
from eco2.journal.journal import Journal
from eco2.journal.snapshots import messages, write_snapshot
from eco2.operator.dead_jobs import DeadRow
from eco2.ports import DEAD, FromOffset, Record, jobs_queue
from eco2.stages import DEMO_PHOTO
from tests.acceptance.programs import clean_environment
from tests.support.buggy_scan import bug, held
from tests.support.installation import ALL, Installation, installation, until

LIMIT = 1000


@pytest.fixture
async def here(amqp_url: str, prefix: str) -> AsyncIterator[Installation]:
    async with installation(amqp_url, prefix) as running:
        yield running


async def rows(here: Installation) -> list[DeadRow]:
    return (await dead.read_list(here.settings, LIMIT))[0]


async def failed(here: Installation) -> ClientJob:
    """A scan that failed by a bug, whose order is a dead letter."""
    with bug():
        async with here.worker():
            job = await here.submit()
            assert (await here.events(job.id))[-1].status == "failed"

            async def buried() -> bool:
                return await here.depth(DEAD) == 1

            await until(buried)
    return job


async def replayed(here: Installation, *ids: str, dry_run: bool = False) -> tuple[int, list[str]]:
    """How many were refused, and what was told."""
    told: list[str] = []
    refused = await dead.replay_jobs(
        here.settings, ids, told.append, dry_run=dry_run, at_once=50, limit=LIMIT
    )
    return refused, told


async def eco2(here: Installation, *args: str) -> tuple[int, str, str]:
    """The program itself: exit code, standard output, standard error."""
    env = {
        **clean_environment(),
        "ECO2_AMQP_URL": str(here.settings.amqp_url),
        "ECO2_PREFIX": here.settings.prefix,
        "ECO2_PIPELINES": here.settings.pipelines,
    }
    program = await create_subprocess_exec(
        sys.executable, "-m", "eco2", *args, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    out, error = await program.communicate()
    assert program.returncode is not None
    return program.returncode, out.decode(), error.decode()


async def test_a_job_that_failed_by_a_bug_goes_on_behind_what_it_completed(here: Installation) -> None:
    job = await failed(here)
    (row,) = await rows(here)
    assert (row.job, row.pipeline, row.code, row.stage) == (job.id, "scan", "INTERNAL", "answer failed")
    assert (row.cost.calls, row.letters, row.replayed) == (1, 1, None)

    refused, told = await replayed(here, job.id, dry_run=True)
    assert refused == 0
    assert "keeps vision, rule; runs answer, reward" in told[0]
    assert "paid so far  vision: 1 call, " in told[0]
    assert "answer: not known" in told[0]
    assert [each.job for each in await rows(here)] == [job.id]

    async with here.worker():  # the bug is mended
        _, told = await replayed(here, job.id)
        new = told[-1].split()[-1]
        events = await here.events(new)
    assert [event.seq for event in events] == ALL
    assert [event.status for event in events if event.name == "done"] == ["completed"]
    assert (await here.paid()) == {job.id: 1, new: 1}
    assert await rows(here) == []
    old = await here.client.result(job)
    assert old["status"] == "failed"
    assert (await jobs.read_detail(here.settings, job.id)).replayed == new
    detail = await jobs.read_detail(here.settings, new)
    assert detail.state.resumes == job.id
    assert detail.state.key is None
    assert set(detail.state.usage) == {"answer"}


async def test_a_replay_is_estimated_by_what_others_paid(here: Installation) -> None:
    async with here.worker():
        good = await here.submit()
        await here.events(good.id)
    job = await failed(here)
    _, told = await replayed(here, job.id, dry_run=True)
    (shown,) = [line for line in told[0].splitlines() if "will cost    answer" in line]
    detail = await jobs.read_detail(here.settings, good.id)
    (used,) = [stage.cost for stage in detail.stages if stage.stage == "answer"]
    assert shown.endswith(f"answer: about {used}")
    assert "will cost    reward: no calls" in told[0]


class Crash(Exception):
    """What a test lets a command die of."""


def after(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """The command crashes once the step has taken effect."""
    real: Callable[..., Awaitable[object]] = getattr(owner, name)

    async def step(*args: Any) -> None:
        await real(*args)
        raise Crash

    monkeypatch.setattr(owner, name, step)


@pytest.mark.parametrize(
    ("owner", "step", "known"),
    [
        (RabbitMQ, "append_order", False),
        (Journal, "announce", True),
        (RabbitMQ, "publish", True),
        (DeadLetterMessage, "drop", True),
    ],
)
async def test_a_replay_that_crashes_between_two_steps_loses_nothing_and_pays_nothing_twice(
    here: Installation, owner: type, step: str, known: bool
) -> None:
    job = await failed(here)
    with pytest.MonkeyPatch.context() as monkeypatch:
        after(monkeypatch, owner, step)
        with pytest.raises(ExceptionGroup) as crashed:
            await replayed(here, job.id)
        assert crashed.group_contains(Crash)
    found = await rows(here)
    begun = [row for row in (await jobs.read_list(here.settings, None, None))[0] if row.job != job.id]
    assert len(begun) == known
    if step == "drop":
        assert found == []
    else:
        assert [row.job for row in found] == [job.id]
        assert [row.replayed for row in found] == [begun[0].job if known else None]
        await replayed(here, job.id)
    after_all = [row for row in (await jobs.read_list(here.settings, None, None))[0] if row.job != job.id]
    (new,) = after_all
    async with here.worker():
        assert [event.seq for event in await here.events(new.job)] == ALL
    assert (await here.paid()) == {job.id: 1, new.job: 1}
    assert await rows(here) == []


async def test_several_letters_of_one_job_are_one_and_are_dropped_together(here: Installation) -> None:
    job = await failed(here)
    await here.bury(await here.order(job.id), job.id)
    (row,) = await rows(here)
    assert (row.job, row.letters) == (job.id, 2)
    assert await dead.drop_letters(here.settings, {job.id}, LIMIT) == 2
    assert await rows(here) == []
    assert (await here.client.result(job))["status"] == "failed"


async def test_a_letter_that_nobody_can_read_is_shown_refused_and_dropped(here: Installation) -> None:
    await here.bury(b"\xff not an order", "nobody's")
    (row,) = await rows(here)
    assert (row.job, row.status, row.pipeline, row.code) == ("nobody's", "unknown", "", "")
    assert "undecodable order" in row.message
    refused, told = await replayed(here, row.job)
    assert refused == 1
    assert "drop it" in told[0]
    with pytest.raises(PermanentError, match="no dead letter of nobody"):
        await replayed(here, row.job, "nobody")
    assert await dead.drop_letters(here.settings, {row.job}, LIMIT) == 1
    assert await rows(here) == []


async def test_an_order_that_was_lost_is_issued_again(here: Installation) -> None:
    job = await here.submit()
    await here.purge()
    assert await here.depth(jobs_queue("scan")) == 0
    detail = await jobs.read_detail(here.settings, job.id)
    assert (
        detail.holder
        == f"none: its order waits in a queue; if no queue has it, use `eco2 jobs reissue {job.id}`"
    )
    await jobs.reissue_order(here.settings, job.id)
    async with here.worker():
        assert [event.seq for event in await here.events(job.id)] == ALL
    with pytest.raises(PermanentError, match="has ended as completed"):
        await jobs.reissue_order(here.settings, job.id)
    with pytest.raises(PermanentError, match="knows no job"):
        await jobs.reissue_order(here.settings, new_id(time.time()))


async def test_a_job_that_expired_is_replayed_by_its_id_from_its_stored_order(here: Installation) -> None:
    job = await here.client.submit("scan", {}, files={"image": DEMO_PHOTO}, max_wait=0.2)
    await asyncio.sleep(0.5)
    async with here.worker():
        (*_, end) = await here.events(job.id)
        assert end.result is not None
        error = end.result["error"]
        assert isinstance(error, dict)
        assert error["code"] == "EXPIRED"
        assert await rows(here) == []
        with pytest.raises(PermanentError, match=f"eco2 jobs replay {job.id}"):
            await jobs.reissue_order(here.settings, job.id)
        with pytest.raises(PermanentError, match="eco2 jobs replay"):
            await replayed(here, job.id)
        told: list[str] = []
        found = await replay_failed(here.settings, Wanted([job.id]), told.append, dry_run=False, at_once=50)
        assert (found.jobs, found.refused) == ([job.id], 0)
        new = (await jobs.read_detail(here.settings, job.id)).replayed
        assert new is not None
        assert told[-1] == f"{job.id}  continues as {new}"
        assert [event.seq for event in await here.events(new)] == ALL
    assert await here.paid() == {new: 2}


async def test_jobs_that_failed_are_replayed_once_by_a_filter_with_a_price_and_a_question(
    here: Installation,
) -> None:
    late = [await here.client.submit("scan", {}, files={"image": DEMO_PHOTO}, max_wait=0.2) for _ in range(2)]
    await asyncio.sleep(0.5)
    dead = await failed(here)
    for job in late:
        assert (await here.events(job.id))[-1].status == "failed"
    await save_snapshot(here)  # which has no job that ended before it
    code, out, _ = await eco2(here, "jobs", "replay", "--code", "EXPIRED", "--since", "1h", "--dry-run")
    assert code == 0
    assert [job.id in out for job in (*late, dead)] == [True, True, False]
    assert "2 jobs: paid so far no calls; a replay will cost about" in out
    assert "at 500 requests and 500,000 tokens a minute, all of them free: less than a minute" in out
    code, out, _ = await eco2(here, "jobs", "replay", "--pipeline", "scan")
    assert code == 130
    assert out.endswith("Nothing was replayed. --yes replays without asking.\n")
    assert "3 jobs: paid so far 1 call" in out  # the one with a dead letter, too
    assert await here.depth(DEAD) == 1
    code, out, _ = await eco2(here, "jobs", "replay", "--since", "1h", "--yes")
    assert code == 0
    pairs = [line.split() for line in out.splitlines() if "continues as" in line]
    begun = {old: new for old, *_, new in pairs}
    assert set(begun) == {job.id for job in (*late, dead)}
    assert await here.depth(DEAD) == 0
    async with here.worker():
        for new in begun.values():
            assert [event.seq for event in await here.events(new)] == ALL
    await save_snapshot(here)
    code, out, _ = await eco2(here, "jobs", "replay", "--since", "1h", "--yes")
    assert (code, out) == (0, "Jobs that were replayed before, and are left out: 3.\nNothing to replay.\n")
    told: list[str] = []
    wanted = Wanted([late[0].id])
    await replay_failed(here.settings, wanted, told.append, dry_run=False, at_once=1, priced=False)
    assert told[0].endswith("which has ended: nothing is left to do")
    assert await here.paid() == {dead.id: 1, begun[dead.id]: 1, **{begun[job.id]: 2 for job in late}}
    assert len((await jobs.read_list(here.settings, None, None))[0]) == 6


async def save_snapshot(here: Installation) -> None:
    """Writes what processes write each minute."""
    async with open_session(here.settings, "test") as session:
        record = Record(session.journal.view.offset, b"")
        async with session.broker.read(FromOffset(record.offset)) as records:
            record = await anext(records)
        snapshot = session.journal.view.save([(time.time() - 60, record.offset)], record.body)
        await write_snapshot(session.broker, messages(snapshot))


async def test_a_job_is_cancelled_once_and_its_order_is_dropped(here: Installation) -> None:
    job = await here.submit()
    await jobs.cancel_job(here.settings, job.id)
    await jobs.cancel_job(here.settings, job.id)
    async with here.worker():

        async def dropped() -> bool:
            return sum([await here.depth(queue) for queue in here.queues]) == 0

        await until(dropped)
    assert await here.paid() == {}
    assert (await jobs.read_detail(here.settings, job.id)).document()["status"] == "cancelled"
    with pytest.raises(PermanentError, match="knows no job"):
        await jobs.cancel_job(here.settings, new_id(time.time()))


async def test_an_order_that_was_not_lost_may_be_issued_again_without_harm(here: Installation) -> None:
    job = await here.submit()
    await jobs.reissue_order(here.settings, job.id)
    async with here.worker():
        assert [event.seq for event in await here.events(job.id)] == ALL

        async def settled() -> bool:
            return sum([await here.depth(queue) for queue in here.queues]) == 0

        await until(settled)
    assert await here.paid() == {job.id: 2}
    assert [await here.depth(queue) for queue in (*here.queues, DEAD)] == [0, 0, 0]
    assert len((await jobs.read_detail(here.settings, job.id)).runs) == 1


async def test_a_pause_halts_the_intake_and_a_resume_lets_it_go_on(here: Installation) -> None:
    async with here.worker():

        async def consuming() -> bool:
            return await here.consumers() == 2

        async def halted() -> bool:
            return await here.consumers() == 0

        await until(consuming)
        assert await intake.set_intake(here.settings, Paused(ts=time.time(), reason="a deploy")) == (
            None,
            0,
            0,
        )
        await until(halted)
        job = await here.submit()
        listed, paused = await jobs.read_list(here.settings, "queued", "scan")
        assert [row.job for row in listed] == [job.id]
        assert paused is not None
        assert paused.reason == "a deploy"
        assert await here.depth(jobs_queue("scan")) == 1
        with pytest.raises(PermanentError, match="eco2 resume"):
            await replayed(here)
        before, _, queued = await intake.set_intake(here.settings, Resumed(ts=time.time()))
        assert (before, queued) == (paused, 1)
        assert [event.seq for event in await here.events(job.id)] == ALL
    assert (await jobs.read_list(here.settings, "queued", None)) == ([], None)
    assert (await intake.set_intake(here.settings, Resumed(ts=time.time())))[0] is None


async def test_who_is_at_work_on_a_job_is_asked(here: Installation) -> None:
    async with here.worker():
        with held() as stages:
            job = await here.submit()
            await stages.wait()
            detail = await jobs.read_detail(here.settings, job.id)
        assert detail.holder == f"{detail.runs[0].worker}, running it"
        assert detail.runs[0].end == ""
        assert [(stage.stage, stage.status) for stage in detail.stages] == [
            ("vision", "completed"),
            ("rule", "completed"),
        ]
        assert (await here.events(job.id))[-1].status == "completed"
        assert (await jobs.read_detail(here.settings, job.id)).runs[0].end == "completed"


async def test_the_program_prints_tables_and_json_and_says_by_its_exit_code_what_became(
    here: Installation,
) -> None:
    job = await failed(here)
    code, out, _ = await eco2(here, "dead", "list", "--json")
    assert code == 0
    assert [row["job"] for row in json.loads(out)["jobs"]] == [job.id]
    code, out, _ = await eco2(here, "dead", "show", job.id)
    assert code == 0
    assert "INTERNAL" in out
    assert "data:image/jpeg;base64" in out
    assert "characters)" in out
    assert len(out) < 10_000
    assert (await eco2(here, "dead", "drop", "--all"))[0] == 130  # nobody is there to agree
    assert (await eco2(here, "dead", "replay", "nobody"))[0] == 5
    assert (await eco2(here, "dead", "replay"))[0] == 2
    code, out, _ = await eco2(here, "dead", "drop", job.id, "--yes")
    assert (code, out.splitlines()[-1]) == (0, "Dropped 1 letter of 1 job.")
    code, out, _ = await eco2(here, "jobs", "list", "--status", "failed")
    assert code == 0
    assert job.id in out
    code, out, _ = await eco2(here, "pause", "--reason", "to look at it")
    assert (code, out.startswith("Paused. 0 jobs are running")) == (0, True)
    assert "PAUSED since" in (await eco2(here, "jobs", "list"))[1]
    code, out, _ = await eco2(here, "resume")
    assert (code, out) == (0, "Resumed. Workers take jobs again; 0 wait in the queue.\n")


async def test_a_wrong_prefix_makes_nothing_at_the_broker(here: Installation, prefix: str) -> None:
    elsewhere = here.settings.model_copy(update={"prefix": f"{prefix}x"})
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="ECO2_PREFIX"):
            await jobs.read_list(elsewhere, None, None)
