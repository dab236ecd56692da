"""Three nodes, of which one dies or is cut off; processes reach them as through a load balancer."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.fault.evidence import Evidence, Moment
from tests.fault.fleet import Fleet
from tests.fault.lab import Lab
from tests.fault.size import Size
from tests.fault.trial import Trial, trial
from tests.support.cluster import Cluster
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Node

CHECKED = 0.5
"""Seconds between the balancer's looks at the nodes."""
ELECTED = 45.0
"""Seconds in which the remaining nodes must have new leaders and all jobs their next event."""


async def node_killed(lab: Lab, size: Size) -> Evidence:
    """kill -9 of the node that everybody is connected to; later it comes back."""
    cluster = await lab.cluster()
    async with _balanced(lab, size, cluster) as run:
        victim = cluster.nodes[0]
        lab.say(f"kill -9 of {victim.name}; {run.state()}")
        await asyncio.to_thread(victim.kill9)
        run.moment = Moment(time.time(), limit=ELECTED)
        await run.over()
        lab.say("the node comes back")
        await asyncio.to_thread(victim.start)
        await run.again("with all three nodes", 4)
    return run.seen()


async def node_cut_off(lab: Lab, size: Size) -> Evidence:
    """The node of the first worker loses sight of the others; later they meet again.

    The processes know two nodes, and the suite looks at the third. From RabbitMQ 4.3 on a node without a
    majority keeps its clients and answers them, so that no balancer can tell it from a good one: the
    processes must find out that it serves nobody, and leave it.
    """
    cluster = await lab.cluster()
    *known, witness = cluster.nodes
    hosts = ",".join(f"127.0.0.1:{node.port}" for node in known)
    env = {"ECO2_AMQP_URL": f"amqp://guest:guest@{hosts}/"}
    async with trial(lab, size, url=lambda: witness.url, env=env) as run:
        victim = _node_of(cluster, run.fleet.workers[0].log)
        run.submit(size.jobs, over=size.call * 3)
        await run.accepted(size.jobs // 2)
        lab.say(f"{victim.name} is cut off; {run.state()}")
        run.moment = Moment(time.time(), limit=ELECTED)
        await asyncio.to_thread(cluster.cut_off, victim)
        await run.over()
        lab.say("the nodes see each other again")
        await asyncio.to_thread(cluster.join, victim)
        await asyncio.to_thread(_answering, cluster)
        await run.again("with all three nodes", 4)
    return run.seen()


def _node_of(cluster: Cluster, log: Path) -> Node:
    """The node that the process with this `log` is connected to."""
    *_, port = re.findall(r'"to": "127\.0\.0\.1:(\d+)"', log.read_text())
    return next(node for node in cluster.nodes if node.port == int(port))


def _answering(cluster: Cluster) -> None:
    """Waits until all nodes serve again."""
    deadline = time.monotonic() + 90
    while len(cluster.living()) < len(cluster.nodes):
        assert time.monotonic() < deadline, "a node did not come back"
        time.sleep(0.5)


@asynccontextmanager
async def _balanced(lab: Lab, size: Size, cluster: Cluster) -> AsyncIterator[Trial]:
    """A fleet in the middle of its work, connected to the first node as long as that answers."""
    nodes = [cluster.nodes[0]]

    def url() -> str:
        return nodes[0].url

    async with (
        trial(lab, size, wire=Proxy, url=url) as run,
        _balancer(cluster, nodes, run.fleet),
    ):
        run.submit(size.jobs, over=size.call * 3)
        await run.accepted(size.jobs // 2)
        yield run


@asynccontextmanager
async def _balancer(cluster: Cluster, nodes: list[Node], fleet: Fleet) -> AsyncIterator[None]:
    """Keeps `nodes[0]` and every wire on a node that answers."""

    async def balance() -> None:
        while True:
            living = await asyncio.to_thread(cluster.living)
            if living and nodes[0] not in living:
                nodes[0] = living[0]
            for slot in fleet.slots:
                if slot.wire is not None:
                    slot.wire.lead_to(nodes[0].url)
            await asyncio.sleep(CHECKED)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(balance())
        try:
            yield
        finally:
            task.cancel()
