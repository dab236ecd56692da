"""The broker goes away, comes back, hears nothing, takes nothing, loses what it had."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import aio_pika
import httpx

from tests.fault.clients import result
from tests.fault.evidence import Evidence, Moment
from tests.fault.lab import Lab
from tests.fault.queues import bodies, depths
from tests.fault.size import Size
from tests.fault.trial import Trial, trial
from tests.fault.wire import StreamWire
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node

REFUSAL = 1.0
"""Seconds in which a gateway must refuse while the broker takes nothing."""
QUIET = 60.0
"""Seconds of empty queues after which an order counts as lost and is issued again."""
SWEPT = 45.0
"""Seconds that the sweep takes besides, and the jobs that it orders again: they run a few at a time."""
CUTS = 3
ROTATION = 20.0
"""Seconds for which the password of the processes is refused."""
_CLOSE_ALL = '[rabbit_networking:close_connection(P, "rotation") || P <- rabbit_networking:connections()].'
NOTICED = 20.0
"""Seconds in which a tail that shows nothing must be attached again."""
REPLACED = 90.0
"""Seconds in which all processes must have read the new journal, from when the broker is up."""

Act = Callable[[Node], None]


async def restarted(lab: Lab, size: Size) -> Evidence:
    """An orderly restart of the broker under load."""
    return await _gone(lab, size, Node.restart)


async def killed(lab: Lab, size: Size) -> Evidence:
    """The broker dies at once and is started again with its data."""
    return await _gone(lab, size, _kill_and_start)


def _kill_and_start(node: Node) -> None:
    node.kill9()
    node.start()


async def _gone(lab: Lab, size: Size, act: Act) -> Evidence:
    node = await lab.own_node()
    async with _loaded(lab, size) as run:
        lab.say("the broker goes")
        await asyncio.to_thread(act, node)
        run.moment = Moment(time.time(), limit=size.takeover)
        lab.say(f"the broker is back; {run.state()}")
        await run.over()
    return run.seen()


async def cut(lab: Lab, size: Size) -> Evidence:
    """Every connection of every process is reset, several times."""
    async with _loaded(lab, size, Proxy) as run:
        for _ in range(CUTS):
            lab.say(f"all connections to the broker are cut; {run.state()}")
            run.moment = Moment(time.time(), limit=size.takeover)
            for slot in run.fleet.slots:
                if slot.wire is not None:
                    slot.wire.cut()
            await asyncio.sleep(size.call)
        await run.over()
    return run.seen()


async def half_open(lab: Lab, size: Size) -> Evidence:
    """Every connection stays open and carries nothing any more, until its heartbeats are missed."""
    async with _loaded(lab, size, Proxy) as run:
        lab.say(f"all connections to the broker are half-open; {run.state()}")
        run.moment = Moment(time.time(), limit=3.0 * size.heartbeat + size.takeover)
        for slot in run.fleet.slots:
            if slot.wire is not None:
                slot.wire.stall()
        await run.over()
    return run.seen()


async def password_rotated(lab: Lab, size: Size) -> Evidence:
    """The password of the processes stops being accepted under load, and is accepted again later."""
    node, size = await lab.own_node(), size.lasting
    async with _loaded(lab, size) as run:
        lab.say(f"the password is another one, and all connections are closed; {run.state()}")
        try:
            # One call: between two, the processes would come back with the old password.
            await asyncio.to_thread(node.ctl, "eval", _password("rotated") + _CLOSE_ALL)
            refused = await _refusals(run, size.jobs // 5)
            await asyncio.sleep(ROTATION)
            refused += await _refusals(run, size.jobs // 5)
            ended = [slot.name for slot in run.fleet.slots if slot.starts > 1 or slot.deaths or slot.bad_ends]
            run.check("no process ended", not ended, f"{ended}")
            lab.say(f"the old password is accepted again; {run.state()}")
        finally:
            await asyncio.to_thread(node.ctl, "eval", _password("guest") + "ok.")
        run.moment = Moment(time.time(), limit=size.takeover)
        await run.over()
        await run.again("with the old password", 4)
    return run.seen()


def _password(password: str) -> str:
    return f'rabbit_auth_backend_internal:change_password(<<"guest">>, <<"{password}">>, <<"tests">>), '


async def confirms_withheld(lab: Lab, size: Size) -> Evidence:
    """What is appended to the journal takes effect, and no confirm comes back; new connections are whole."""
    return await _muted(lab, size, StreamWire.withhold, 3 * size.publish_timeout)


async def tail_silent(lab: Lab, size: Size) -> Evidence:
    """The tails of all processes get nothing more; all else on their connections works, and new ones do."""
    return await _muted(lab, size, StreamWire.silence, NOTICED)


async def _muted(lab: Lab, size: Size, mute: Callable[[StreamWire], None], noticed: float) -> Evidence:
    async with _loaded(lab, size, StreamWire) as run:
        lab.say(f"{mute.__name__}; {run.state()}")
        run.moment = Moment(time.time(), limit=noticed + size.takeover)
        for slot in run.fleet.slots:
            assert isinstance(slot.wire, StreamWire)
            slot.wire.stream = run.journal.encode()
            mute(slot.wire)
        await run.over()
        await run.again("on new connections", 4)
    return run.seen()


async def wiped(lab: Lab, size: Size) -> Evidence:
    """The broker dies, loses its disk and is started again, empty."""
    node = await lab.own_node()

    async def wipe(_: Trial) -> None:
        await asyncio.to_thread(_wipe, node)

    return await _replaced(lab, size, wipe)


def _wipe(node: Node) -> None:
    node.kill9()
    node.remove_data()
    node.start()


async def stream_deleted(lab: Lab, size: Size) -> Evidence:
    """The journal's stream is deleted, and every connection is cut."""

    async def delete(run: Trial) -> None:
        async with await aio_pika.connect(run.url()) as connection, connection.channel() as channel:
            await channel.queue_delete(run.journal)
        for slot in run.fleet.slots:
            if slot.wire is not None:
                slot.wire.cut()

    return await _replaced(lab, size, delete)


async def _replaced(lab: Lab, size: Size, act: Callable[[Trial], Awaitable[None]]) -> Evidence:
    """What was accepted is lost with the journal, so what is judged is all that comes after: the same
    processes notice it, say so, and serve as before."""
    async with _loaded(lab, size, Proxy) as run:
        starts = [slot.starts for slot in run.fleet.slots]
        old = [job for job, history in run.jobs.items() if history.end is None]
        lab.say(f"the journal goes; {run.state()}")
        await act(run)
        await run.forget()
        began = time.monotonic()
        unready = await _until_replaced(run)
        run.check("every process notices it", time.monotonic() - began < REPLACED, f"{len(unready)} said so")
        run.check("no process was started again", starts == [slot.starts for slot in run.fleet.slots])
        lab.say(f"read anew after {time.monotonic() - began:.1f} s")
        await run.again("in the new journal", size.jobs // 2)
        gone = {(await result(run.http, url, job, "scan"))[0] for job in old for url in run.gateways}
        run.check("old jobs are not found", gone <= {404, 410}, f"{gone}")
        run.dead = await _dead(run)
        dead = [json.loads(body)["job"]["id"] for body in await bodies(run.url, run.dead_queue, run.dead)]
        new = run.jobs.keys() & set(dead)
        run.check("only orders of the old journal are dead letters", not new, f"{len(new)} of {len(dead)}")
    return run.seen()


async def _dead(run: Trial) -> int:
    """The dead letters, once the orders of the old journal have left the work queues and no more come."""
    before, found = -1, 0
    async with asyncio.timeout(REPLACED):
        while before != found:
            await asyncio.sleep(2.0)  # longer than from one queue to the other
            work = [run.queue(), f"{run.queue()}.first", f"{run.queue()}.wait-5s"]
            there = await depths(run.url(), [*work, run.dead_queue])
            before, found = found, there.pop(run.dead_queue, 0)
            if any(there.values()):
                before = -1
    return found


async def _until_replaced(run: Trial) -> set[str]:
    """Waits until every process has read the new journal; those that were seen not ready before."""
    unready: set[str] = set()
    async with asyncio.timeout(REPLACED):
        while True:
            replaced = 0
            for slot in run.fleet.slots:
                with suppress(httpx.HTTPError):
                    ready = await run.http.get(f"{slot.url}/readyz")
                    page = (await run.http.get(slot.metrics_url)).text
                    replaced += ready.status_code == 200 and "eco2_journal_replaced_total 1.0" in page
                    if ready.status_code == 503:
                        unready.add(slot.name)
            if replaced == len(run.fleet.slots):
                return unready
            await asyncio.sleep(0.2)


async def memory_alarm(lab: Lab, size: Size) -> Evidence:
    """RabbitMQ is told that it may use no memory."""
    return await _alarm(
        lab, size, ("set_vm_memory_high_watermark", "0.000001"), ("set_vm_memory_high_watermark", "0.4")
    )


async def disk_alarm(lab: Lab, size: Size) -> Evidence:
    """RabbitMQ is told to keep more of the disk free than there is."""
    return await _alarm(lab, size, ("set_disk_free_limit", "100000GB"), ("set_disk_free_limit", "50MB"))


async def _alarm(lab: Lab, size: Size, on: tuple[str, ...], off: tuple[str, ...]) -> Evidence:
    node, size = await lab.own_node(), size.lasting
    async with _loaded(lab, size) as run:
        lab.say(f"{' '.join(on)}; {run.state()}")
        try:
            await asyncio.to_thread(node.ctl, *on)
            refused = await _refusals(run, size.jobs // 5)
            await asyncio.sleep(size.long / 2)
            refused += await _refusals(run, size.jobs // 5)
            lab.say(f"the alarm ends; {run.state()}")
        finally:
            await asyncio.to_thread(node.ctl, *off)
        run.moment = Moment(time.time(), limit=size.takeover)
        await run.over()
        await run.again("after the alarm", 4)
        kept = {h.queued.body.get("key") for h in run.jobs.values() if not h.superseded}
        ghosts = kept & set(refused)
        run.check("no ghost of a refused request", not ghosts, f"{len(ghosts)} keys are in the journal")
    return run.seen()


async def _refusals(run: Trial, count: int) -> list[str]:
    """Sends requests that must be refused, fast; their keys. They are not sent again."""
    keys = [f"refused-{number}-{time.time()}" for number in range(count)]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(run.submitter.once(key, run.gateways[number % len(run.gateways)]))
            for number, key in enumerate(keys)
        ]
    answers = [task.result() for task in tasks]
    statuses = sorted({answer.status for answer in answers})
    slowest = max(answer.seconds for answer in answers)
    run.check("POST answers 503 under an alarm", statuses == [503], f"{statuses}")
    run.check(f"… within {REFUSAL:g} s", slowest <= REFUSAL, f"{slowest:.1f} s")
    return [answer.key for answer in answers if answer.job is None]


async def purged(lab: Lab, size: Size) -> Evidence:
    """`rabbitmqctl purge_queue` while most jobs wait in the queue."""
    node, size = await lab.own_node(), replace(size, call=size.call / 2)
    async with trial(lab, size, env={"ECO2_PREFETCH": "12"}) as run:
        run.submit(size.jobs)
        await run.accepted(size.jobs)
        lab.say(f"purge_queue; {run.state()}")
        purge = ("purge_queue", run.queue())
        await asyncio.to_thread(node.ctl, *purge)
        run.check(
            "jobs were waiting in the queue", len(_unstarted(run)) > size.jobs // 4, f"{len(_unstarted(run))}"
        )
        run.moment = Moment(time.time(), limit=QUIET + size.holder_timeout + SWEPT)
        await run.over()
    return run.seen()


def _unstarted(run: Trial) -> list[str]:
    return [job for job, history in run.jobs.items() if not history.runs]


@asynccontextmanager
async def _loaded(lab: Lab, size: Size, wire: type[Proxy] | None = None) -> AsyncIterator[Trial]:
    """A fleet in the middle of its work: half of the jobs run, others come in."""
    async with trial(lab, size, wire=wire) as run:
        run.submit(size.jobs, over=size.call)
        await run.accepted(size.jobs // 2)
        yield run
