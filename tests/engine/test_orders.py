"""Orders that are none, or whose job the journal does not know."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager

import pytest

from eco2.errors import BrokerUnavailable
from eco2.job import new_id
from eco2.journal.state import JobState
from eco2.ports import DELAYS, Delivery, Record, Start
from eco2.testing.clock import VirtualClock, virtual
from tests.support.metric_value import metric_value
from tests.support.world import (
    ScriptedModel,
    World,
    order,
    until,
)


@pytest.mark.parametrize("body", [b"", b"not json", b'{"v":99,"job":{}}'])
def test_what_is_no_order_goes_to_the_dead_letters(body: bytes) -> None:
    @virtual
    async def scenario() -> None:
        dead: list[Delivery] = []
        async with World().process(ScriptedModel()) as process:
            process.broker.consume("dead", 10, dead.append)
            await process.broker.publish("jobs.ask", body, "m")
            await until(lambda: bool(dead))
            await dead[0].ack()
            assert (await process.ended((await process.submit()).job)).status == "completed"
        assert dead[0].body == body

    scenario()


@virtual
async def test_an_order_that_no_gateway_announced_goes_to_the_dead_letters() -> None:
    dead: list[Delivery] = []
    now = VirtualClock.now()
    async with World().process(ScriptedModel()) as process:
        process.broker.consume("dead", 10, dead.append)
        ghost = new_id(now)
        await process.order(order(ghost, "q", now))
        await until(lambda: bool(dead))
        assert [delivery.message_id for delivery in dead] == [ghost]
        await dead[0].ack()


@virtual
async def test_an_order_of_a_job_that_the_journal_has_dropped_is_late_and_not_looked_for() -> None:
    dead, reads = list[Delivery](), list[Start]()
    late = 'eco2_jobs_ended_total{code="EXPIRED",pipeline="ask",status="failed"}'
    async with World().process(ScriptedModel()) as process:
        await process.ended((await process.submit()).job)
        read = process.broker.read

        def noted(start: Start) -> AbstractAsyncContextManager[AsyncIterator[Record]]:
            reads.append(start)
            return read(start)

        process.broker.read = noted  # type: ignore[method-assign]
        process.broker.consume("dead", 10, dead.append)
        before = VirtualClock.now() - 3600
        await process.order(order(new_id(before), "q", before))
        await until(lambda: metric_value(process.metrics, late) == 1)
    assert (reads, dead) == ([], [])


@virtual
async def test_an_order_comes_again_when_the_broker_failed_while_its_job_was_looked_up() -> None:
    async with World().process(ScriptedModel()) as process:
        find, fails = process.journal.recent, iter([True])

        async def unsteady(job_id: str) -> JobState | None:
            if next(fails, False):
                raise BrokerUnavailable("the connection is gone")
            return await find(job_id)

        process.journal.recent = unsteady  # type: ignore[method-assign]
        began = VirtualClock.now()
        state = await process.ended((await process.submit()).job)
        assert state.status == "completed"
        assert VirtualClock.now() - began >= DELAYS[0]
    assert next(fails, None) is None


@virtual
async def test_an_order_that_is_no_utf_8_goes_to_the_dead_letters() -> None:
    dead: list[Delivery] = []
    async with World().process(ScriptedModel()) as process:
        process.broker.consume("dead", 10, dead.append)
        await process.broker.publish("jobs.ask", b'{"v":1,"job":{"id":"\xff"}}', "m")
        await until(lambda: bool(dead))
        assert [delivery.message_id for delivery in dead] == ["m"]
        await dead[0].ack()


@pytest.mark.parametrize("body", [b"", b'{"v":99,"job":{}}', b'{"v":1,"job":{"id":"\xff"}}'])
def test_an_order_that_nobody_can_read_ends_its_job_if_it_says_whose_it_is(body: bytes) -> None:
    @virtual
    async def scenario() -> None:
        world, model, dead = World(), ScriptedModel(), list[Delivery]()
        async with world.process() as gateway:
            job = (await gateway.submit()).job
            message = world.server.queues[world.topology.queue("jobs.ask")]._ready[0]
            message.body = body
            gateway.broker.consume("dead", 10, dead.append)
            async with world.process(model):
                state = await gateway.ended(job)
                await until(lambda: bool(dead))
            await dead[0].ack()
        assert (state.status, state.dead) == ("failed", True)
        assert state.result is not None
        assert isinstance(state.result["error"], dict)
        assert state.result["error"]["code"] == "MALFORMED"
        assert [(letter.message_id, letter.body) for letter in dead] == [(job, body)]
        assert model.calls == []

    scenario()


@virtual
async def test_an_order_that_nobody_can_read_changes_nothing_about_a_job_that_has_ended() -> None:
    world = World()
    async with world.process(ScriptedModel()) as process:
        state = await process.ended((await process.submit()).job)
        await process.broker.publish("jobs.ask", b"", state.job)
        await until(lambda: len(world.server.queues[world.topology.queue("dead")]) == 1)
        await process.journal.barrier()
        assert process.journal.view.get(state.job) == state


@virtual
async def test_an_unreadable_double_of_a_job_at_work_does_not_end_it() -> None:
    model = ScriptedModel(seconds=10)
    async with World().process(model) as process:
        job = (await process.submit()).job
        await until(lambda: bool(model.in_flight))
        await process.broker.publish("jobs.ask", b"{", job)
        state = await process.ended(job)
    assert state.status == "completed"
