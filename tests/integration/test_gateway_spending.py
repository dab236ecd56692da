"""POST on a day that has cost what it may, over HTTP."""

import time
from dataclasses import replace
from decimal import Decimal

import httpx

from eco2.event import StageChanged
from eco2.journal.spending import day_of, until_midnight
from tests.support.gateways import CONFIG, Cluster, cluster, eventually

LIMITED = replace(CONFIG, daily_usd=Decimal("12.50"))


async def pay(world: Cluster, usd: str) -> None:
    """A stage that costs so much is completed."""
    spending, now = world.gateways[0].journal.view.spending, time.time()
    before, usage = spending.total(day_of(now)), dict[str, object](cost_usd=usd)
    paid = StageChanged(
        ts=now, job=usd, run="r", stage="s", status="completed", seq=1, progress=9, output={}, usage=usage
    )
    await world.worker.append(paid)
    await eventually(lambda: spending.total(day_of(time.time())) == before + Decimal(usd))


async def test_what_was_paid_stops_the_intake_and_says_until_when_and_what_to_do() -> None:
    async with cluster(config=LIMITED) as world, httpx.AsyncClient(base_url=world.gateways[0].url) as http:
        await pay(world, "12.49")
        assert (await http.post("/echo", json={"text": "a"})).status_code == 202
        await pay(world, "0.01")
        refused = await http.post("/echo", json={"text": "b"})
        assert (refused.status_code, refused.json()["code"]) == (503, "SPEND_LIMIT")
        assert 0 <= int(refused.headers["Retry-After"]) - until_midnight(time.time()) < 2
        assert "12.50" not in refused.text  # what was paid is for operators
        assert "after midnight UTC" in refused.json()["detail"]
        await eventually(lambda: len(world.worker.orders) == 1)
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert "SPEND_LIMIT" in paths["/echo"]["post"]["responses"]["503"]["description"]
