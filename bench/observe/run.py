"""Runs load and incidents, then the staged outage, then sends every query to Prometheus."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import httpx

from bench.observe.alerts import FILE, alerts, hurried
from bench.observe.findings import Fit, Found, Question, of_alerts, of_panels
from bench.observe.prometheus import Prometheus, promtool, running
from bench.observe.scene import Scene, scene
from eco2.metrics.series import all_series

WAIT, WINDOW = "3s", "20s"
"""What each `for` and each range of the rules is made for this run: it has minutes, not days."""
PATIENCE = 60.0
"""Seconds in which an alert of the staged outage must come, and in which it must go."""
STAGED = "Eco2ProviderDown"
EXPECTED = {
    STAGED,
    "Eco2DeadLetters",
    "Eco2IntakePaused",
    "Eco2JobsFail",
    "Eco2JobsTakenOver",
    "Eco2NothingFinishes",
    "Eco2NoWorker",
    "Eco2RateLimited",
    "Eco2TargetDown",
}
"""Alerts that the run gives a reason for: each must fire, and be over in the end."""
LOAD, SECONDS = 110, 50.0
HELD = 3
"""Jobs that a worker has in hand when it is killed."""


@dataclass
class Life:
    """The states of an alert, each with the time (seconds of the run) at which it was first seen."""

    states: list[tuple[float, str]] = field(default_factory=list)

    def see(self, at: float, state: str) -> None:
        if not self.states or self.states[-1][1] != state:
            self.states.append((at, state))

    @property
    def fired(self) -> bool:
        return any(state == "firing" for _, state in self.states)

    @property
    def over(self) -> bool:
        return self.states[-1][1] != "firing"

    @property
    def came_by_waiting(self) -> bool:
        """True if pending was seen right before firing."""
        names = [state for _, state in self.states]
        return ("pending", "firing") in pairwise(names)


@dataclass
class Outcome:
    """All findings of the run. `complaints`: the deviations."""

    found: list[Found]
    lives: dict[str, Life]
    fits: list[Fit]
    jobs: int
    series: int
    bytes: int
    complaints: list[str] = field(default_factory=list)


async def watch(folder: Path, broker: str, say: Callable[[str], None]) -> Outcome:
    """Runs the scene for two to three minutes."""
    text = FILE.read_text()
    async with scene(folder, broker, say) as on:
        targets = {
            "eco2-gateway": [slot.metrics_url.removesuffix("/metrics") for slot in on.fleet.gateways],
            "eco2-worker": [slot.url for slot in on.fleet.workers],
        }
        async with running(folder / "prometheus", targets, hurried(text, WAIT, WINDOW)) as prometheus:
            began = time.time()
            async with _watching(prometheus, began) as lives:
                await _load(on, prometheus)
                await _outage(on, prometheus)
                await _without_workers(on, prometheus)
                await on.over()
                await on.operate("dead", "drop", "--all", "--yes")
                await _quiet(prometheus, say)
            say("asking every question")
            questions = [*of_panels(), *of_alerts(alerts(text))]
            found = [await _asked(prometheus, question, began) for question in questions]
            fits = [
                await _fit(prometheus, name) for name, row in all_series().items() if row.kind == "histogram"
            ]
            sizes = await _pages(on)
            outcome = Outcome(found, lives, fits, on.sent, *sizes)
    outcome.complaints = complaints(outcome)
    return outcome


async def _load(on: Scene, prometheus: Prometheus) -> None:
    on.say("one job is put off, another fails by a bug, clients come and go")
    await on.deaf_client()
    await asyncio.gather(on.put_off(), on.bugs(), on.refusals())
    on.say(f"{LOAD} scans over {SECONDS:g} s, some calls fail")
    await on.hiccups()
    loading = asyncio.create_task(on.load(LOAD, SECONDS))
    await on.return_of_a_client()
    await asyncio.sleep(10)
    on.say("every connection to the broker is cut")
    on.cut()
    await asyncio.sleep(8)
    await _at_work(on, prometheus)
    on.say("kill -9 of a worker")
    on.kill_a_worker()
    await asyncio.sleep(12)
    on.say("paused and resumed by an operator")
    await on.operate("pause", "--reason", "a test")
    await asyncio.sleep(6)
    await on.operate("resume")
    await loading


async def _at_work(on: Scene, prometheus: Prometheus) -> None:
    """Waits until the worker to be killed has jobs."""
    place = on.fleet.workers[1].url.rpartition("/")[2]
    running = f'sum(eco2_jobs_running{{instance="{place}"}} - eco2_jobs_parked{{instance="{place}"}})'
    async with asyncio.timeout(PATIENCE):
        while not any(value >= HELD for _, value in await prometheus.now(running)):  # noqa: ASYNC110
            await asyncio.sleep(0.3)


async def _outage(on: Scene, prometheus: Prometheus) -> None:
    on.say("the provider is down")
    await on.provider.faults({"action": "status", "status": 503})
    more = asyncio.create_task(on.load(20, 20.0))
    await _until(prometheus, STAGED, "firing", on.say)
    await more
    await asyncio.sleep(25)  # so that some jobs miss their deadline
    on.say("the provider is back")
    await on.provider.faults()
    await _until(prometheus, STAGED, "inactive", on.say)


async def _without_workers(on: Scene, prometheus: Prometheus) -> None:
    on.say("no worker is left, and jobs come in")
    for slot in on.fleet.workers:
        slot.kill9(away=True)
    await on.load(5, 1.0)
    for alert in ("Eco2NoWorker", "Eco2NothingFinishes"):
        await _until(prometheus, alert, "firing", on.say)
    for slot in on.fleet.workers:
        slot.back()
    on.say("the workers are back")
    await _until(prometheus, "Eco2NoWorker", "inactive", on.say)


async def _quiet(prometheus: Prometheus, say: Callable[[str], None]) -> None:
    await asyncio.sleep(10)  # a sweep has seen that no letter is left, whoever leads now
    for alert in sorted(EXPECTED):
        await _until(prometheus, alert, "inactive", say)


async def _until(prometheus: Prometheus, alert: str, state: str, say: Callable[[str], None]) -> None:
    """Waits for a state; the alert's life is judged later."""
    try:
        async with asyncio.timeout(PATIENCE):
            while (await prometheus.states()).get(alert) != state:  # noqa: ASYNC110 - HTTP sets no event
                await asyncio.sleep(0.3)
        say(f"{alert} is {state}")
    except TimeoutError:
        say(f"{alert} is not {state} after {PATIENCE:g} s")


@asynccontextmanager
async def _watching(prometheus: Prometheus, began: float) -> AsyncIterator[dict[str, Life]]:
    lives: dict[str, Life] = {}

    async def look() -> None:
        for name, state in (await prometheus.states()).items():
            lives.setdefault(name, Life()).see(time.time() - began, state)

    async def watch() -> None:
        while True:
            await look()
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        yield lives
        watching.cancel()
    await look()


async def _asked(prometheus: Prometheus, question: Question, began: float) -> Found:
    expr = question.expr
    for window in ("[10m]", "[5m]", "[3m]", "[1h]"):
        expr = expr.replace(window, "[1m]")
    values = await prometheus.span(expr, began, time.time())
    return Found(question, len(values), max(values, default=0.0))


async def _fit(prometheus: Prometheus, name: str) -> Fit:
    by_bound = {
        float(labels["le"]): value
        for labels, value in await prometheus.now(f"sum by (le) (max_over_time({name}_bucket[10m]))")
    }
    bounds = sorted(by_bound)
    counts = [by_bound[bound] for bound in bounds]
    total = counts[-1] if counts else 0.0
    if not total:
        return Fit(name, 0, 0, 0, 0)
    used = sum(after > before for before, after in pairwise([0.0, *counts]))
    return Fit(name, total, counts[0] / total, (total - counts[-2]) / total, used)


async def _pages(on: Scene) -> tuple[int, int]:
    """Returns lines and bytes of the longest page, and promtool's result for each page."""
    most = (0, 0)
    async with httpx.AsyncClient(trust_env=False) as http:
        for slot in on.fleet.slots:
            shown = (await http.get(slot.metrics_url)).content
            promtool("check", "metrics", given=shown)
            series = sum(not line.startswith(b"#") for line in shown.splitlines())
            most = max(most, (series, len(shown)))
    return most


def complaints(outcome: Outcome) -> list[str]:
    """Returns the deviations, one sentence each."""
    said = [
        f"{found.question.where}: no data for {found.question.expr}"
        for found in outcome.found
        if found.missing
    ]
    for name in sorted(EXPECTED):
        life = outcome.lives.get(name, Life([(0.0, "unknown")]))
        if not life.fired:
            said.append(f"{name} did not fire")
        elif not life.over:
            said.append(f"{name} fired and was not over in the end")
    if not outcome.lives[STAGED].came_by_waiting:
        said.append(f"{STAGED} did not go from pending to firing")
    said += [f"the bounds of {fit.name} do not fit" for fit in outcome.fits if not fit.fits]
    return said
