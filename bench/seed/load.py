"""Locust's users: each sends a photo, follows the events of its scan to the end, and repeats this.

Every scan is a line of the file `BENCH_SCANS`: times are monotonic seconds, which all processes of a machine
share. Runs in the environment of `scripts/setup-bench seed`:

    python -m locust -f bench/seed/load.py --headless --users 100 --spawn-rate 10 --host URL
"""

import json
import os
import time
from collections.abc import Iterator
from itertools import count
from typing import Any

from locust import HttpUser, task

from eco2.stages import DEMO_PHOTO

PHOTO = DEMO_PHOTO.read_bytes()
ROUND = 1000
"""Scans that one user can send: user 3's are 3000, 3001 …, in every run, so that the provider draws the same
latencies for them."""
SCANS = open(os.environ["BENCH_SCANS"], "a", buffering=1)  # noqa: SIM115  # as long as the process
_people = count()


class Person(HttpUser):
    """A user that does not wait between two scans."""

    def on_start(self) -> None:
        self.numbers = count(next(_people) * ROUND)

    @task
    def scan(self) -> None:
        line: dict[str, Any] = {"number": next(self.numbers), "sent": time.monotonic()}
        try:
            self._scan(line)
        except Exception as error:  # whatever went wrong: the scan did not succeed, and this says how
            line["error"] = repr(error)
            raise
        finally:
            SCANS.write(json.dumps(line) + "\n")

    def _scan(self, line: dict[str, Any]) -> None:
        answer = self.client.post(
            "/scan",
            files={"image": ("photo.jpg", PHOTO, "image/jpeg")},
            data={"user_input": f"이 컵은 어떻게 버리나요? (case {line['number']})"},
        )
        line["accepted"] = time.monotonic()
        answer.raise_for_status()
        url = f"/scan/{answer.json()['job_id']}/events"
        with self.client.get(url, stream=True, name="/scan/{id}/events", catch_response=True) as stream:
            line["opened"] = time.monotonic()
            stream.raise_for_status()
            self._follow(stream.iter_lines(), line)

    def _follow(self, lines: Iterator[bytes], line: dict[str, Any]) -> None:
        """Follows a scan up to `done`. `first`: the first event; `started`: the first that a worker
        caused; `text`: the first piece of the answer, of `pieces`."""
        name = ""
        for text in lines:
            if text.startswith(b"event:"):
                name = text[6:].strip().decode()
                line.setdefault("first", time.monotonic())
                if name.endswith(".delta"):
                    line.setdefault("text", time.monotonic())
                    line["pieces"] = line.get("pieces", 0) + 1
                elif name not in ("queued", "done"):
                    line.setdefault("started", time.monotonic())
            elif text.startswith(b"data:") and name == "done":
                line["done"] = time.monotonic()
                line["status"] = json.loads(text[5:])["result"]["status"]
                return
        raise ConnectionError("the events ended before the scan did")
