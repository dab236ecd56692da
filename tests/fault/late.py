"""Clients that come when all is over: one at each gateway for each job, for its events and for its result."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

import httpx

from tests.fault.clients import Follower, result
from tests.fault.evidence import JSON, Fact
from tests.fault.history import History

AT_ONCE = 20
PATIENCE = 20.0
"""Seconds in which a late client must have seen everything."""


def is_result(body: JSON, end: Fact) -> bool:
    """True if a gateway shows so the result of a job: with null for what only its pipeline could add."""
    result = end.body["result"]
    return isinstance(result, dict) and body == {**dict.fromkeys(body), **result}


async def look(
    http: httpx.AsyncClient, gateways: Sequence[str], jobs: Iterable[History]
) -> tuple[list[Follower], list[str]]:
    """All of these clients, and what was wrong with the results that they got."""
    limit = asyncio.Semaphore(AT_ONCE)
    followers: list[Follower] = []
    wrong: list[str] = []

    async def visit(history: History, gateway: str) -> None:
        pipeline = str(history.queued.body["pipeline"])
        follower = Follower(http, [gateway], history.job, pipeline=pipeline, late=True)
        followers.append(follower)
        async with limit:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await follower.follow()
            try:
                answer = await result(http, gateway, history.job, pipeline)
            except httpx.HTTPError as error:
                wrong.append(f"{history.job}: {error!r}")
                return
        if history.end is None or answer[0] != 200 or not is_result(answer[1], history.end):
            wrong.append(f"{history.job}: {answer[0]}")

    async with asyncio.TaskGroup() as group:
        for history in jobs:
            for gateway in gateways:
                group.create_task(visit(history, gateway))
    return followers, wrong
