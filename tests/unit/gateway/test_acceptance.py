"""Acceptance against an unkind broker: in virtual time, over the embedded broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from eco2.broker.embedded import CALM, Chaos, Embedded, Server
from eco2.broker.topology import Topology
from eco2.errors import BrokerUnavailable, InvalidInput, PublishUncertain
from eco2.gateway.acceptance import Acceptance, Accepted, Submission, Terms
from eco2.gateway.config import GatewayConfig
from eco2.job import Job, decode_order
from eco2.journal.journal import Journal
from eco2.journal.view import View
from eco2.pipeline import Form, Pipeline
from eco2.ports import Delivery
from eco2.testing.clock import VirtualClock, virtual
from tests.support.gateways import eventually

TOPOLOGY = Topology(pipelines=("echo",))


class Input(BaseModel):
    text: str


def asked(text: str, key: str | None = None) -> Submission:
    terms = Terms(max_wait=60.0, timeout=180.0, key=key)
    return Submission(Form({"text": text}), f"digest of {text}", terms)


class Gateway:
    def __init__(
        self, server: Server, orders: list[Job], parse: Callable[[Form], Awaitable[Input]] | None = None
    ) -> None:
        self.broker = Embedded(TOPOLOGY, server)
        self.journal = Journal(self.broker, View(900.0, VirtualClock.now))
        echo = Pipeline("echo", Input, (), lambda _: {}, parse=parse)
        config = GatewayConfig(models=())
        self.acceptance = Acceptance(echo, self.broker, self.journal, config, VirtualClock.now)
        self._orders = orders

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Gateway"]:
        stop, stop_broker = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.broker.run(stop_broker))
            journaling = group.create_task(self.journal.run(stop))
            self.broker.consume("jobs.echo", 1000, self._take)
            await self.journal.filled.wait()
            await eventually(lambda: self.broker.ready)
            yield self
            stop.set()
            await journaling
            stop_broker.set()

    def _take(self, delivery: Delivery) -> None:
        self._orders.append(decode_order(delivery.body))

    async def patiently(self, submission: Submission) -> Accepted:
        """What a client does: asks again while it is told that the broker is away."""
        while True:
            try:
                return await self.acceptance.accept(submission)
            except BrokerUnavailable:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", range(5))
def test_under_chaos_every_key_has_one_job_and_every_answered_id_an_order(seed: int) -> None:
    @virtual
    async def run() -> None:
        server, orders = Server(Chaos(seed=seed), clock=VirtualClock.now), list[Job]()
        one, two = Gateway(server, orders), Gateway(server, orders)
        async with one.running(), two.running():
            asks = [
                gateway.patiently(asked(f"text {number}", f"key {number}"))
                for number in range(40)
                for gateway in (one, two, one)
            ]
            answers = await asyncio.gather(*asks)
            by_key = [{answer.job_id for answer in answers[at : at + 3]} for at in range(0, len(answers), 3)]
            assert all(len(ids) == 1 for ids in by_key)
            answered = set[str]().union(*by_key)
            assert len(answered) == 40
            await eventually(lambda: answered <= {job.id for job in orders})
            for gateway in (one, two):
                await gateway.journal.barrier()
                for number, ids in enumerate(by_key):
                    holder = gateway.journal.view.by_key("", f"key {number}", VirtualClock.now())
                    assert holder is not None
                    assert {holder} == ids
            assert {job.id for job in orders} == answered

    run()


@virtual
async def test_when_no_confirm_comes_the_client_is_told_in_time_and_may_ask_again() -> None:
    server, orders = Server(CALM, clock=VirtualClock.now), list[Job]()
    async with Gateway(server, orders).running() as gateway:
        publish, lost = gateway.broker.publish, PublishUncertain("lost")

        async def uncertain(queue: str, body: bytes, message_id: str) -> None:
            raise lost

        gateway.broker.publish = uncertain  # type: ignore[method-assign]
        began = VirtualClock.now()
        with pytest.raises(BrokerUnavailable, match="same key"):
            await gateway.acceptance.accept(asked("a", "k"))
        assert VirtualClock.now() - began == pytest.approx(5.0)
        gateway.broker.publish = publish  # type: ignore[method-assign]
        again = await gateway.acceptance.accept(asked("a", "k"))
        assert not again.new
        await eventually(lambda: bool(orders))
        assert [job.id for job in orders] == [again.job_id]


@virtual
async def test_a_broker_that_blocks_while_the_request_waits_for_it_is_not_waited_for() -> None:
    server = Server(CALM, clock=VirtualClock.now)
    async with Gateway(server, []).running() as gateway:

        async def never(queue: str, body: bytes, message_id: str) -> None:
            server.block("low on memory")
            await asyncio.get_running_loop().create_future()

        gateway.broker.publish = never  # type: ignore[method-assign]
        began = VirtualClock.now()
        with pytest.raises(BrokerUnavailable, match="low on memory"):
            await gateway.acceptance.accept(asked("a", None))
        assert VirtualClock.now() - began < 0.5
        server.unblock()
        await gateway.journal.barrier()
        assert [state.superseded_by for state in gateway.journal.view.recent()] == [
            ""
        ]  # withdrawn: it must not run


@virtual
async def test_a_broker_that_blocks_while_the_request_is_parsed_gets_nothing() -> None:
    server = Server(CALM, clock=VirtualClock.now)

    async def parse(_: Form) -> Input:
        server.block("alarm")
        return Input(text="a")

    async with Gateway(server, [], parse).running() as gateway:
        with pytest.raises(BrokerUnavailable, match="alarm"):
            await gateway.acceptance.accept(asked("a"))
        server.unblock()
        await gateway.journal.barrier()
        assert gateway.journal.view.recent() == []


@virtual
async def test_an_input_that_does_not_fit_leaves_nothing() -> None:
    async def parse(form: Form) -> Input:
        if form.fields["text"] == "":
            raise InvalidInput("no text")
        return Input.model_validate(form.fields)

    server = Server(CALM, clock=VirtualClock.now)
    async with Gateway(server, [], parse).running() as gateway:
        with pytest.raises(InvalidInput, match="no text"):
            await gateway.acceptance.accept(asked("", "k"))
        await gateway.journal.barrier()
        assert gateway.journal.view.recent() == []
        assert (await gateway.acceptance.accept(asked("a", "k"))).new


class Refusing:
    """For as long as the block lasts, a write of the gateway takes effect or not, and is never confirmed."""

    def __init__(self, gateway: Gateway, write: str, takes_effect: bool) -> None:
        self._broker: Any = gateway.broker
        self._write = write
        self._takes_effect = takes_effect

    def __enter__(self) -> None:
        write, takes_effect, came = getattr(self._broker, self._write), self._takes_effect, set[str]()

        async def uncertain(*args: Any) -> None:
            if takes_effect and args[-1] not in came:
                came.add(args[-1])
                await write(*args)
            raise PublishUncertain("no confirm came")

        setattr(self._broker, self._write, uncertain)

    def __exit__(self, *_: object) -> None:
        delattr(self._broker, self._write)


async def refused(gateway: Gateway, key: str | None) -> None:
    with pytest.raises(BrokerUnavailable, match="same key"):
        await gateway.acceptance.accept(asked("a", key))


@pytest.mark.parametrize("takes_effect", [True, False], ids=["got through", "lost"])
@pytest.mark.parametrize("write", ["append_order", "append", "publish"])
def test_a_job_that_was_refused_without_a_key_never_runs(write: str, takes_effect: bool) -> None:
    @virtual
    async def run() -> None:
        server, orders = Server(CALM, clock=VirtualClock.now), list[Job]()
        async with Gateway(server, orders).running() as gateway:
            with Refusing(gateway, write, takes_effect):
                await refused(gateway, None)
            await asyncio.sleep(10)
            await gateway.journal.barrier()
            states = gateway.journal.view.recent()
            assert [(state.status, state.superseded_by) for state in states] == [("superseded", "")] * (
                write != "append_order"
            )
            assert {job.id for job in orders} <= {state.job for state in states}
            assert (await gateway.acceptance.accept(asked("a"))).new

    run()


@pytest.mark.parametrize("takes_effect", [True, False], ids=["got through", "lost"])
@pytest.mark.parametrize("write", ["append", "publish"])
def test_a_job_that_was_refused_with_a_key_is_there_when_its_client_comes_again(
    write: str, takes_effect: bool
) -> None:
    @virtual
    async def run() -> None:
        server, orders = Server(CALM, clock=VirtualClock.now), list[Job]()
        one, two = Gateway(server, orders), Gateway(server, orders)
        async with one.running() as gateway, two.running() as other:
            with Refusing(gateway, write, takes_effect):
                await refused(gateway, "k")
            await asyncio.sleep(10)
            await gateway.journal.barrier()
            (state,) = gateway.journal.view.recent()
            assert state.status == "queued"
            again = await other.acceptance.accept(asked("a", "k"))
            assert (again.job_id, again.new) == (state.job, False)
            await eventually(lambda: state.job in {job.id for job in orders})

    run()


@virtual
async def test_what_was_not_sent_yet_when_the_client_was_refused_is_not_sent_any_more() -> None:
    server, orders = Server(CALM, clock=VirtualClock.now), list[Job]()
    async with Gateway(server, orders).running() as gateway:
        append_order = gateway.broker.append_order

        async def last(body: bytes, message_id: str) -> None:
            await append_order(body, message_id)
            server.block("low on memory")

        gateway.broker.append_order = last  # type: ignore[method-assign]
        await refused(gateway, None)
        server.unblock()
        await gateway.journal.barrier()
        assert gateway.journal.view.recent() == []
        assert orders == []
