"""Submits a job, shows its events and returns its result, with `eco2.client` only."""

import asyncio
import sys

from eco2.client import Client


async def ask(gateway: str, text: str) -> dict[str, object]:
    async with Client(gateway) as client:
        job = await client.submit("helpdesk", {"text": text}, key=None)  # a key of yours makes it repeatable
        async for event in client.events(job):  # continues after the last event when a connection is lost
            print(event.name, event.text or event.status)
        return await client.result(job)


if __name__ == "__main__":
    print(asyncio.run(ask("http://127.0.0.1:8000", " ".join(sys.argv[1:]))))
