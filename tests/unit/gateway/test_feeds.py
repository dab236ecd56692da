"""The feeds over an embedded broker, in virtual time."""

import asyncio

from eco2.broker.embedded import Embedded, Server
from eco2.broker.topology import Topology
from eco2.delta import DELTA_TOPIC, Delta, encode_deltas
from eco2.event import Done, Queued
from eco2.gateway.feeds import Feeds
from eco2.journal.journal import Journal
from tests.support.gateways import CONFIG, eventually
from tests.support.virtual_clock import VirtualClock, virtual


@virtual
async def test_followers_are_woken_by_events_text_and_stop_and_ended_jobs_leave_no_text() -> None:
    broker = Embedded(Topology(), Server(clock=VirtualClock.now))
    journal = Journal(broker, 900.0, VirtualClock.now)
    stop, stop_journal, stop_broker = asyncio.Event(), asyncio.Event(), asyncio.Event()
    feeds = Feeds(journal, stop, CONFIG)
    async with asyncio.TaskGroup() as group:
        group.create_task(broker.run(stop_broker))
        journaling = group.create_task(journal.run(stop_journal))
        await journal.filled.wait()
        with feeds.followers.follow("j") as news:
            async with feeds.flowing(broker):
                await eventually(lambda: broker.ready)
                journal.put(Queued(ts=VirtualClock.now(), job="j", pipeline="echo", deadline=9.0, digest=""))
                await news.wait()
                news.clear()
                broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 0, "text")]))
                await news.wait()
                news.clear()
                assert len(feeds.live) == 1
                broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 99, "of no use")]))
                broker.broadcast(DELTA_TOPIC, b"not a message of ours")
                done = Done(ts=9.0, job="j", run=None, status="failed", seq=51, result={})
                await journal.put(done)
                await news.wait()
                news.clear()
                assert len(feeds.live) == 0
                stop.set()
                await news.wait()
                news.clear()
            broker.broadcast(DELTA_TOPIC, encode_deltas([Delta("j", "r", "answer", 0, "after the end")]))
            assert broker.ready
        assert len(feeds.followers) == 0
        stop_journal.set()
        await journaling
        stop_broker.set()
