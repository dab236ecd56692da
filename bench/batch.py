"""Jobs per second of `submit_many`: one client, one gateway, one RabbitMQ node, no worker.

`python -m bench.batch [--jobs 20000] [--runs 3]`. Each is a process of its own. The CPU seconds do not depend
on what runs beside; the jobs per second do.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from eco2.client import Client, ClientJob
from tests.abuse.gateway import cpu_seconds
from tests.acceptance.programs import eco2
from tests.support.rabbitmq import Node

PROVIDER = {"OPENAI_API_KEY": "test", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "ECO2_IMAGE_URLS": "on"}
"""It is never called."""


def inputs(number: int) -> Iterator[dict[str, object]]:
    """Yields scans of about 150 bytes."""
    for at in range(number):
        question = f"Where does this go? (case {at})"
        yield {"image_url": f"https://photos.example/{at}.jpg", "user_input": question}


async def measure(jobs: int, runs: int) -> None:
    """Writes one line per run."""
    with tempfile.TemporaryDirectory() as folder:
        node = Node(Path(folder))
        await asyncio.to_thread(node.start)
        try:
            env = {"ECO2_AMQP_URL": node.url, "ECO2_PREFIX": "bench", "ECO2_PORT": "0", **PROVIDER}
            async with eco2("gateway", env=env) as gateway, Client(gateway.url) as client:
                pids = {"client": os.getpid(), "gateway": gateway.process.pid, "broker": node.pid}
                for run in range(runs):
                    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
                    began = time.monotonic()
                    answers = client.submit_many("scan", inputs(jobs))
                    accepted = [isinstance(answer, ClientJob) async for answer in answers].count(True)
                    seconds = time.monotonic() - began
                    cpu = {
                        f"{name}_cpu": round(cpu_seconds(pid) - before[name], 2) for name, pid in pids.items()
                    }
                    found = {"run": run, "accepted": accepted, "seconds": round(seconds, 2), **cpu}
                    rate = {
                        "jobs_per_second": round(accepted / seconds),
                        "load": round(os.getloadavg()[0], 1),
                    }
                    sys.stdout.write(json.dumps(found | rate) + "\n")
        finally:
            await asyncio.to_thread(node.stop)


def main() -> None:
    """Reads the arguments."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--jobs", type=int, default=20_000)
    arguments.add_argument("--runs", type=int, default=3)
    given = arguments.parse_args()
    asyncio.run(measure(given.jobs, given.runs))


if __name__ == "__main__":
    main()
