"""Incidents of workers during a case. Each one is recorded with its time."""

import asyncio
import signal
import time
from dataclasses import dataclass, field

from bench.budget.case import Incident
from bench.budget.fleet import Fleet
from bench.programs import Program

KILLS = 20.0
"""Seconds from the death of one leader to that of the next."""
RESTARTS = 80.0
"""Seconds from one death of the only worker to the next."""
RESTART = 1.0
"""Seconds until an orchestrator starts a dead worker anew."""
FREEZE = 30.0
EXCHANGE = 15.0
"""Seconds from one that joins to one that leaves, and so on."""


@dataclass(frozen=True, slots=True)
class Note:
    """A recorded incident. `at`: monotonic seconds."""

    at: float
    what: str


@dataclass
class Notes:
    """The recorded incidents, in order of time."""

    all: list[Note] = field(default_factory=list)

    def add(self, what: str) -> None:
        self.all.append(Note(time.monotonic(), what))


async def happen(incident: Incident, fleet: Fleet, start: float, end: float, notes: Notes) -> None:
    """Causes the case's incidents between the times `start` and `end` (monotonic)."""
    await _until(start)
    match incident:
        case "kill":
            await _kill(fleet, end, notes, KILLS)
        case "restart":
            await _until(min(start + RESTARTS / 2, (start + end) / 2))
            await _kill(fleet, end, notes, RESTARTS)
        case "freeze":
            await _freeze(fleet, start, end, notes)
        case "exchange":
            await _exchange(fleet, start, end, notes)
        case "none":
            pass


async def _kill(fleet: Fleet, end: float, notes: Notes, interval: float) -> None:
    """Kills the leader every `interval` seconds."""
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            again = time.monotonic() + interval
            worker = await fleet.leader()
            if worker is not None:
                await fleet.kill(worker)
                notes.add(f"{worker.name}, the leader, is killed")
                group.create_task(_replace(fleet, notes))
            await _until(min(again, end))


async def _replace(fleet: Fleet, notes: Notes) -> None:
    await asyncio.sleep(RESTART)
    notes.add(f"{(await fleet.join()).name} is ready in its place")


async def _freeze(fleet: Fleet, start: float, end: float, notes: Notes) -> None:
    """Freezes, in the middle of the time, a worker that requests grants and is not the leader."""
    await _until(start + max(0.0, (end - start - FREEZE) / 4))
    worker = next(iter(await _followers(fleet)))
    leader = await fleet.leader()
    waiting = 0.0
    if leader is not None:
        waiting = (await fleet.metrics(leader)).get('eco2_quota_waiting{provider="openai"}', 0.0)
    worker.send(signal.SIGSTOP)
    notes.add(f"{worker.name} is frozen while {waiting:g} asks of all workers wait")
    await asyncio.sleep(min(FREEZE, max(1.0, end - time.monotonic() - 1.0)))
    worker.send(signal.SIGCONT)
    notes.add(f"{worker.name} goes on")


async def _exchange(fleet: Fleet, start: float, end: float, notes: Notes) -> None:
    """Starts one worker and stops one in turn: the oldest that is not the leader, and once, in the middle,
    the leader."""
    led = False
    async with asyncio.TaskGroup() as group:
        while time.monotonic() + EXCHANGE < end:
            notes.add(f"{(await fleet.join()).name} joins")
            await _until(min(end, time.monotonic() + EXCHANGE / 2))
            leader = await fleet.leader()
            turn = not led and time.monotonic() > (start + end) / 2 and leader is not None
            leaving = leader if turn and leader is not None else (await _followers(fleet))[0]
            led = led or turn
            notes.add(f"{leaving.name}{', the leader,' if turn else ''} is asked to leave")
            group.create_task(_left(fleet, leaving, notes))
            await _until(min(end, time.monotonic() + EXCHANGE / 2))


async def _left(fleet: Fleet, worker: Program, notes: Notes) -> None:
    await fleet.leave(worker)
    notes.add(f"{worker.name} has left")


async def _followers(fleet: Fleet) -> list[Program]:
    leader = await fleet.leader()
    return [worker for worker in fleet.workers if worker is not leader]


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))
