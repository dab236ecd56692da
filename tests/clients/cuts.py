"""Clients that people use, through connections that are cut, each time resuming on the other gateway.

`python -m tests.clients.cuts` prints how each fares, with `--write` into docs/clients.md. Every durable event
must come once and in order; what a client cannot do is stated in `LIMITS`, and nothing else passes.
"""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from eco2.client import Client, ClientJob
from tests.clients.browser import chromium, pages
from tests.clients.front import Cut, Front, after, front, inside
from tests.support.gateways import CONFIG, SEQS, Cluster, cluster, life

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "clients.md"
PYTHON = ROOT / "build" / "clients-venv" / "bin" / "python"
MARKS = ("<!-- cuts: written by `make clients` -->\n", "<!-- /cuts -->\n")
PATIENCE = 60.0
"""Seconds in which a client must have come to `done`."""
LINGER = 2.0
"""Seconds that a client is watched after `done`."""

CUTS: Mapping[str, tuple[Cut, ...]] = {
    "RST": (after(b"vision", b"started", "RST"), after(b"answer", b"started", "RST")),
    "FIN": (after(b"vision", b"started", "FIN"), after(b"answer", b"started", "FIN")),
    "RST inside": (inside(b"vision", b"completed", "RST"), inside(b"done", b"completed", "RST")),
    "FIN inside": (inside(b"vision", b"completed", "FIN"), inside(b"done", b"completed", "FIN")),
}
"""Two cuts of each kind; `inside`: in the data of `vision completed`, then of `done`."""
CLIENTS: Mapping[str, str] = {
    "chromium": "Chromium's `EventSource`",
    "eco2": "`eco2.client`",
    "eventsource": "npm `eventsource` 4",
    "eventsource2": "npm `eventsource` 2",
    "undici": "undici's `EventSource` (Node)",
    "launchdarkly": "`launchdarkly-eventsource`",
    "reconnecting": "`reconnecting-eventsource`",
    "polyfill": "`event-source-polyfill`",
    "fetch": "`fetch-event-source`, `onclose` throws",
    "json": "`fetch-event-source`, `JSON.parse` in `onmessage`",
    "sample": "`fetch-event-source`, README sample",
    "httpx_sse": "`httpx-sse`, its recipe for reconnecting",
    "requests_sse": "`requests-sse`",
    "sseclient_py": "`sseclient-py`, reconnecting by hand",
}
LIMITS: Mapping[tuple[str, str], str] = {
    ("sseclient_py", "FIN inside"): "delivers halves of events",
}
"""What is wrong with a client, and not with the stream, by client and cut."""


@dataclass
class Outcome:
    """Holds the events that one client saw of one job. `end`: how it stopped by itself, if it did."""

    seqs: list[int] = field(default_factory=list)
    halves: int = 0
    end: str | None = None
    statuses: list[int] = field(default_factory=list)

    def take(self, name: str, data: str) -> bool:
        """Adds an event; True for `done`."""
        try:
            self.seqs.append(json.loads(data)["seq"])
        except (ValueError, KeyError):
            self.halves += 1
            return False
        return name == "done"

    @property
    def verdict(self) -> str:
        """`ok`, or what is wrong."""
        problems = []
        if lost := len(set(SEQS) - set(self.seqs)):
            problems.append(f"loses {lost}")
        if more := len(self.seqs) - len(set(self.seqs)):
            problems.append(f"repeats {more}")
        if self.halves:
            problems.append(
                "also delivers half an event" if self.halves == 1 else "delivers halves of events"
            )
        return ", ".join(problems) or ("ok" if self.seqs == SEQS else "out of order")

    @property
    def afterwards(self) -> str:
        """Describes the requests that it makes once it has seen `done`."""
        asked = self.statuses.count(204)
        if self.end is not None:
            return "raises on 204" if "204" in self.end and self.end != "204" else "stops"
        return "asks on until closed" if asked > 1 else "stops" if asked else "does not ask again"


async def run(world: Cluster, job: str, client: str, cuts: Sequence[Cut]) -> Outcome:
    """One client through these cuts."""
    outcome = Outcome()
    async with front([gateway.url for gateway in world.gateways], cuts) as one:
        url = f"{one.url}/echo/{job}/events"
        try:
            if client == "eco2":
                await _own(one, job, outcome)
            elif client == "chromium":
                await _browser(url, outcome)
            else:
                await _process(client, url, outcome)
        finally:
            outcome.statuses = one.statuses
    return outcome


async def _own(one: Front, job: str, outcome: Outcome) -> None:
    async with Client(one.url) as client, asyncio.timeout(PATIENCE):
        async for event in client.events(ClientJob.at("echo", job)):
            outcome.seqs.append(-1 if event.seq is None else event.seq)
    outcome.end = "done"


async def _process(client: str, url: str, outcome: Outcome) -> None:
    """Reads what the program reports until `done`, and a while longer."""
    python = client in ("httpx_sse", "requests_sse", "sseclient_py")
    program = [str(PYTHON), "follow.py"] if python else ["node", "follow.mjs"]
    process = await asyncio.create_subprocess_exec(
        *program,
        *(client, url),
        cwd=Path(__file__).parent,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        limit=2**20,
    )
    assert process.stdout is not None
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE) as patience:
                async for line in process.stdout:
                    said = json.loads(line)
                    if "end" in said:
                        outcome.end = said["end"]
                    elif outcome.take(said["name"], said["data"]):
                        patience.reschedule(asyncio.get_running_loop().time() + LINGER)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and its end was not noticed yet
                process.kill()
        await process.wait()


async def _browser(url: str, outcome: Outcome) -> None:
    module = (Path(__file__).parent / "cuts.mjs").read_text()
    async with pages(b"", {"cuts.mjs": module}) as site, chromium(site, url, "./cuts.mjs"):
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE) as patience:
                while not (report := await site.reports.get()).closed:
                    if report.kind == "event" and outcome.take(report.name, report.body):
                        patience.reschedule(asyncio.get_running_loop().time() + LINGER)
                outcome.end = "closed"


@asynccontextmanager
async def job_that_ended() -> AsyncIterator[tuple[Cluster, str]]:
    """Two gateways, and a job that both can replay."""
    async with cluster(2, config=replace(CONFIG, sse_retry=0.2)) as world:
        async with httpx.AsyncClient() as http:
            answer = await http.post(f"{world.gateways[0].url}/echo", json={"text": "a"})
        job: str = answer.json()["job_id"]
        for event in life(job):
            await world.worker.append(event)
        await world.everywhere(job, SEQS[-1])
        yield world, job


async def table() -> tuple[str, list[str]]:
    """The table of all clients and cuts, and what is wrong without being a known limit."""
    lines = [f"| Client | {' | '.join(CUTS)} | After `done` |", f"|---|{'---|' * (len(CUTS) + 1)}"]
    problems = []
    async with job_that_ended() as (world, job):
        for client, title in CLIENTS.items():
            outcomes = await asyncio.gather(*(run(world, job, client, cuts) for cuts in CUTS.values()))
            for cut, outcome in zip(CUTS, outcomes, strict=True):
                if outcome.verdict not in ("ok", LIMITS.get((client, cut))):
                    problems.append(f"{client}, {cut}: {outcome.verdict} ({outcome})")
            afterwards = " or ".join(sorted({outcome.afterwards for outcome in outcomes}))
            lines.append(f"| {title} | {' | '.join(one.verdict for one in outcomes)} | {afterwards} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n", problems


def main() -> None:
    found, problems = asyncio.run(table())
    if "--write" in sys.argv[1:]:
        text = GUIDE.read_text(encoding="utf-8")
        start, end = MARKS
        text = re.sub(f"{start}.*{end}", lambda _: f"{start}\n{found}\n{end}", text, flags=re.DOTALL)
        GUIDE.write_text(text, encoding="utf-8")
    if problems:
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
