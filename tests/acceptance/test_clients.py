"""The clients that people really use, against real processes: curl, Chromium, npm's `eventsource`, ours.

What the texts show is run as it stands there, with this machine's port in place of theirs.
"""

import asyncio
import io
import json
import os
import re
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.programs import Program, eco2
from tests.clients.browser import Pages, chromium, pages
from tests.clients.node import node
from tests.clients.provider import Sighting, seeing
from tests.clients.report import Report
from tests.support.proxy import Proxy

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
SHOWN_URL = "http://127.0.0.1:8000"
ALL = [0, 10, 11, 20, 21, 30, 31, 40, 41, 51]
PATIENCE = 30.0
"""Seconds after which a client that has not come as far as it should counts as stuck."""

Next = Callable[[], Awaitable[Report]]
"""Waits for a client's next report."""


def blocks(info: str, text: str = README) -> list[str]:
    """A text's code blocks of a kind."""
    return re.findall(rf"^```{info}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (640, 480), (40, 120, 200)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def photo(tmp_path: Path, picture: bytes) -> Path:
    """The picture as a file with the name that the README uses, in a folder of its own."""
    path = tmp_path / "photo.jpg"
    path.write_bytes(picture)
    return path


@asynccontextmanager
async def serving(sighting: Sighting, **env: str) -> AsyncIterator[Program]:
    """`eco2 serve` on the broker in memory, with a provider that sees `sighting`."""
    async with (
        seeing(sighting) as provider,
        eco2("serve", env={"ECO2_PORT": "0", **provider, **env}) as program,
    ):
        yield program


# --- curl


async def test_the_curl_lines_of_the_readme_do_what_they_say(photo: Path) -> None:
    lines = [line for block in blocks("sh") for line in statements(block) if "curl" in line]
    assert {purpose(line) for line in lines} == {"submit", "events", "result"}
    job = ""
    async with serving(Sighting(seconds=0.3)) as program:
        for line in lines:
            output = await printed(
                *("bash", "-euo", "pipefail", "-c", line.replace(SHOWN_URL, program.url)),
                folder=photo.parent,
                JOB=job,  # what the reader would have put there
                LAST="4.2",
            )
            job = checked(purpose(line), output) or job


def statements(block: str) -> list[str]:
    """The block's commands; one may go over several lines by backslashes."""
    joined = re.sub(r"\\\n\s*", "", block)
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def purpose(line: str) -> str:
    """What a curl line is for, by its URL."""
    return next((name for name in ("events", "result") if f"/{name}" in line), "submit")


def checked(kind: str, output: str) -> str | None:
    """Asserts that the output is what such a line is for; returns the id of a submitted job."""
    match kind:
        case "events":
            assert re.findall(r"^event: (\w+)$", output, re.MULTILINE)[-1] == "done"
            assert re.findall(r'"seq":(\d+)', output) == [str(seq) for seq in ALL]
        case "result":
            assert json.loads(output)["status"] == "completed"
        case _:
            accepted = json.loads(output)
            assert accepted["status"] == "queued"
            return str(accepted["job_id"])
    return None


async def printed(*command: str, folder: Path, **env: str) -> str:
    """What the program prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, (command, errors.decode())
    return output.decode()


# --- eco2.client


PROGRAMS = list(zip(blocks("python", GUIDE), blocks("text", GUIDE), strict=True))


@pytest.mark.parametrize(("program", "output"), PROGRAMS, ids=range(len(PROGRAMS)))
async def test_the_programs_of_the_guide_print_what_it_says(program: str, output: str, photo: Path) -> None:
    async with serving(Sighting(seconds=0.2)) as gateway:
        code = program.replace(SHOWN_URL, gateway.url)
        found = await printed(sys.executable, "-c", code, folder=photo.parent)
    expected = ".*".join(re.escape(part) for part in output.split("…"))
    assert re.fullmatch(expected, found), found


async def test_the_python_lines_of_the_readme_follow_a_scan_to_its_end(photo: Path) -> None:
    (lines,) = [block for block in blocks("python") if "eco2.client" in block]
    main = (
        f"import asyncio\nasync def main():\n{textwrap.indent(lines, '    ')}\n    print(result['status'])\n"
    )
    async with serving(Sighting(seconds=0.2)) as gateway:
        code = f"{main.replace(SHOWN_URL, gateway.url)}asyncio.run(main())"
        found = (await printed(sys.executable, "-c", code, folder=photo.parent)).splitlines()
    assert (found[0], found[-2], found[-1]) == ("queued started", "done completed", "completed")


# --- EventSource


async def collect(report: Next, last: Callable[[Report], bool]) -> list[Report]:
    """What the client reports, up to the report that is the `last`."""
    reports: list[Report] = []
    async with asyncio.timeout(PATIENCE):
        while not reports or not last(reports[-1]):
            reports.append(await report())
            assert reports[-1].kind != "bug", reports[-1]
            assert reports[-1].kind != "result" or last(reports[-1]), reports[-1]
    return reports


async def test_the_browser_lines_of_the_readme_work_on_a_page_of_another_origin(picture: bytes) -> None:
    (block,) = blocks("js")
    module = f"""export async function scan({{ base, photo, report }}) {{
        const form = new FormData();
        form.append("image", photo);
        const job = await (await fetch(`${{base}}/scan`, {{ method: "POST", body: form }})).json();
        const show = (body) => report({{ kind: "show", body }});
        const write = (body) => report({{ kind: "write", body }});
        {block.replace(f'"{SHOWN_URL}"', "base")}
    }}"""
    async with (
        pages(picture, {"readme.mjs": module}) as site,
        serving(Sighting(seconds=0.3), ECO2_CORS_ORIGINS=site.origin) as program,
        chromium(site, program.url, "./readme.mjs"),
    ):
        reports = await collect(site.reports.get, lambda report: report.seq == ALL[-1])
    assert [report.seq for report in reports if report.kind == "show"] == ALL
    written = "".join(report.body for report in reports if report.kind == "write")
    answer = reports[-1].body["result"]["pipeline_result"]["final_answer"]["user_answer"]
    assert written
    assert answer.startswith(written.strip())


@asynccontextmanager
async def follower(client: str, site: Pages, base: str, photo: Path) -> AsyncIterator[Next]:
    """A scan in a real client, at the gateway behind `base`."""
    if client == "chromium":
        async with chromium(site, base):
            yield site.reports.get
    else:
        async with node(base, photo) as report:
            yield report


async def drain(gateway: Program) -> None:
    """As a deploy does it: SIGTERM, and it ends by itself."""
    gateway.process.send_signal(signal.SIGTERM)
    await asyncio.wait_for(gateway.process.wait(), PATIENCE)


@pytest.mark.timeout(150)
@pytest.mark.parametrize("client", ["chromium", "npm eventsource"])
async def test_an_event_source_survives_a_drain_a_cut_and_a_restart(
    client: str, picture: bytes, photo: Path, amqp_url: str, prefix: str
) -> None:
    env = {"ECO2_AMQP_URL": amqp_url, "ECO2_PREFIX": prefix, "ECO2_SSE_RETRY": "0.2"}
    env |= {"ECO2_PORT": "0", "ECO2_WORKER_PORT": "0"}
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        site = await enter(pages(picture))
        env |= {"ECO2_CORS_ORIGINS": site.origin, **await enter(seeing(Sighting(seconds=2.5)))}
        await enter(eco2("worker", env=env))
        first, second = [await enter(eco2("gateway", env=env)) for _ in range(2)]
        proxy = await enter(Proxy.to(first.url))
        report = await enter(follower(client, site, proxy.url, photo))
        reports = await collect(report, lambda report: report.seq == 10)
        proxy.lead_to(second.url)
        await drain(first)
        reports += await collect(report, lambda report: report.kind == "open")
        proxy.cut()
        reports += await collect(report, lambda report: report.seq == 30)
        await drain(second)
        await enter(eco2("gateway", env={**env, "ECO2_PORT": second.url.rpartition(":")[2]}))
        reports += await collect(report, lambda report: report.kind == "result")
    assert sum(report.kind == "open" for report in reports) >= 4
    assert_whole(reports)


def assert_whole(reports: list[Report]) -> None:
    """Every durable event once and in order, nothing after `done` but the end, and no event named error."""
    submitted, *_, end, result = reports
    durable = [report for report in reports if report.kind == "event" and report.name != "answer.delta"]
    assert [report.seq for report in durable] == ALL
    assert [report.name for report in durable] == [report.body["stage"] for report in durable]
    assert len({report.id for report in durable}) == len(ALL)
    errors = [report for report in reports if report.kind == "error"]
    assert [report.body for report in errors] == [None] * len(errors)
    assert [report.closed for report in errors] == [False] * (len(errors) - 1) + [True]
    behind = reports[reports.index(durable[-1]) + 1 :]
    assert {report.kind for report in behind} == {"error", "result"}
    assert end.closed
    assert (submitted.status, result.status) == (202, 200)
    assert result.body == durable[-1].body["result"]
