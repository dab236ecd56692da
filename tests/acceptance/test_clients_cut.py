"""Clients of other people through cuts inside events; all of them and all cuts: `make clients`."""

import asyncio

from tests.clients.cuts import CUTS, job_that_ended, run

STRICT = ("chromium", "eventsource", "eventsource2", "polyfill", "json", "sample")
"""Among them those that lost events, or got none, when frames were written in another way."""


async def test_a_cut_inside_an_event_loses_nothing_in_any_client() -> None:
    async with job_that_ended() as (world, job):
        outcomes = await asyncio.gather(*(run(world, job, client, CUTS["RST inside"]) for client in STRICT))
    found = {client: outcome.verdict for client, outcome in zip(STRICT, outcomes, strict=True)}
    assert found == dict.fromkeys(STRICT, "ok"), outcomes
