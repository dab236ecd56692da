"""Uploads a photo again and again, as a process: `python -m tests.support.uploads URL FILE RATE SECONDS`.

Prints the statuses, counted, and the longest answer's seconds, as JSON.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path

import httpx


async def upload(url: str, photo: bytes, rate: float, seconds: float) -> tuple[Counter[int], float]:
    """Starts an upload each 1/`rate` s; statuses by number, and how long the longest took."""
    statuses, longest = Counter[int](), 0.0
    limits = httpx.Limits(max_connections=200)

    async def one(at: float) -> None:
        nonlocal longest
        await asyncio.sleep(at)
        began = time.monotonic()
        response = await http.post(url, files={"image": ("a.jpg", photo, "image/jpeg")})
        statuses[response.status_code] += 1
        longest = max(longest, time.monotonic() - began)

    async with httpx.AsyncClient(timeout=60, limits=limits) as http, asyncio.TaskGroup() as group:
        for number in range(round(rate * seconds)):
            group.create_task(one(number / rate))
    return statuses, longest


if __name__ == "__main__":
    to, file, a_second, for_seconds = sys.argv[1:]
    body = Path(file).read_bytes()
    counted, slowest = asyncio.run(upload(to, body, float(a_second), float(for_seconds)))
    print(json.dumps({"statuses": counted, "longest": slowest}))
