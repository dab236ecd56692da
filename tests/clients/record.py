"""Records an app's conversations with a real `eco2 serve` behind which a fake provider answers.

`python -m tests.clients.record` prints them, with `--write` into docs/contract-run.md.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from pathlib import Path

import httpx

from eco2.fake.config import ANSWER
from eco2.fake.faults import Fault
from eco2.stages.tags import Tag
from tests.acceptance.programs import eco2
from tests.clients.contract import ORIGIN
from tests.clients.exchange import Exchange, parse, render
from tests.clients.provider import Sighting, seeing

DOCUMENT = Path(__file__).parents[2] / "docs" / "contract-run.md"
SECONDS = 1.5
"""Of each of a scan's two calls: long enough for an app to poll in between."""
POLL = 2.0
"""Seconds between two looks of the app at the result once its stream has broken."""
SCAN = {"image_url": "https://photos.example/can.jpg", "user_input": "Where does this go?"}

SIGHTINGS: Mapping[str, Sighting] = {
    "completed": Sighting(seconds=SECONDS),
    "without a reward": Sighting(tags=(Tag.DIRTY,), seconds=SECONDS),
    "failed": Sighting(seconds=SECONDS, faults=(Fault(action="status", status=400, kind=ANSWER),)),
}
REFUSALS: Mapping[str, tuple[int, dict[str, str]]] = {
    "IMAGE_URL_REQUIRED": (400, {"user_input": "?"}),
    "UNSUPPORTED_MODEL": (400, SCAN | {"model": "oracle"}),
    "UNSUPPORTED_IMAGE": (415, {"image_url": "data:image/png;base64,AAAA"}),
    "INVALID_REQUEST": (422, {"image_url": "file:///etc/passwd"}),
    "IDEMPOTENCY_MISMATCH": (422, SCAN | {"user_input": "Something else?"}),
}
"""Code → (status, what is sent with the code as its key). The last key belongs to an accepted scan."""

HEAD = """# A recorded run

Written by `python -m tests.clients.record --write`, not by hand: the messages between an app and a real
`eco2 serve` with a fake provider. `tests/acceptance/test_contract_run.py` records the same run again, checks
both field by field against strict models of every message (`tests/clients/contract.py`), and compares their
shapes. JSON bodies are shown with line breaks; the headers `date` and `content-length` are left out.

Each scan runs twice. First the app follows the stream to `done`, fetches the result, and sees that there is
nothing more to come. Then its stream breaks after the first event, and it asks for the result every 2 s.

"""

Recording = dict[str, list[Exchange]]


class App:
    """Does what the app does, and keeps what was said."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self.said: list[Exchange] = []

    async def submit(self, body: Mapping[str, str], key: str) -> Exchange:
        headers = {"content-type": "application/json", "idempotency-key": key}
        return await self._ask("POST", "/scan", headers, json.dumps(body, ensure_ascii=False))

    async def fetch(self, path: str) -> Exchange:
        return await self._ask("GET", path, {}, "")

    async def follow(self, path: str, last_event_id: str = "", events: int | None = None) -> Exchange:
        """The stream to its end, or until so many `events` of it have come."""
        asked = {"accept": "text/event-stream", "origin": ORIGIN}
        asked |= {"last-event-id": last_event_id} if last_event_id else {}
        async with (
            self._http.stream("GET", path, headers=asked) as response,
            aclosing(_blocks(response)) as blocks,
        ):
            body = ""
            async for block in blocks:
                body += block
                if events is not None and body.count("\ndata: ") >= events:
                    break
        return self._keep(Exchange.of(response, asked, body))

    async def _ask(self, method: str, path: str, headers: dict[str, str], body: str) -> Exchange:
        asked = headers | {"origin": ORIGIN}
        response = await self._http.request(method, path, headers=asked, content=body)
        return self._keep(Exchange.of(response, asked, response.text))

    def _keep(self, exchange: Exchange) -> Exchange:
        self.said.append(exchange)
        return exchange


async def _blocks(response: httpx.Response) -> AsyncGenerator[str, None]:
    """The stream cut at its empty lines."""
    rest = ""
    async for text in response.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for block in blocks:
            yield block + "\n\n"


async def scan(app: App) -> None:
    """POST, the stream, the result, the stream and the POST again; then POST, a stream that breaks, polls."""
    accepted = await app.submit(SCAN, "first")
    stream = await app.follow(accepted.data["stream_url"])
    await app.fetch(accepted.data["result_url"])
    last = stream.body.rpartition("id: ")[2].partition("\n")[0]
    await app.follow(accepted.data["stream_url"], last_event_id=last)
    await app.submit(SCAN, "first")
    accepted = await app.submit(SCAN, "second")
    await app.follow(accepted.data["stream_url"], events=1)
    while (await app.fetch(accepted.data["result_url"])).status == 202:  # noqa: ASYNC110  # as the app does it
        await asyncio.sleep(POLL)


async def refusals(app: App) -> None:
    """A scan that is accepted, then what is refused, then a job that does not exist."""
    await app.submit(SCAN, "IDEMPOTENCY_MISMATCH")
    for code, (_, body) in REFUSALS.items():
        await app.submit(body, key=code)
    await app.fetch("/scan/01a20a89-b256-7298-b887-3fdcbd2c43c0/result")


async def _recorded(name: str, recording: Recording) -> None:
    sighting = SIGHTINGS.get(name, Sighting())
    env = {"ECO2_PORT": "0", "ECO2_CORS_ORIGINS": ORIGIN}
    async with (
        seeing(sighting) as provider,
        eco2("serve", env=env | provider) as program,
        httpx.AsyncClient(base_url=program.url, headers={"accept-encoding": "gzip"}, trust_env=False) as http,
    ):
        app = App(http)
        await (scan(app) if name in SIGHTINGS else refusals(app))
    recording[name] = app.said


async def record() -> Recording:
    """All conversations, at once, each with a process of its own."""
    recording: Recording = {}
    names = [*SIGHTINGS, "refused"]
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_recorded(name, recording))
    return {name: recording[name] for name in names}


def document(recording: Recording) -> str:
    """The text of docs/contract-run.md."""
    return (
        HEAD
        + "\n".join(f"## {name.capitalize()}\n\n{render(said)}" for name, said in recording.items()).rstrip()
        + "\n"
    )


def read(text: str) -> Recording:
    """The recording that a document holds."""
    sections = [section.partition("\n\n") for section in text.split("\n## ")[1:]]
    return {name.lower(): parse(body) for name, _, body in sections}


def main() -> None:
    text = document(asyncio.run(record()))
    if "--write" in sys.argv[1:]:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
