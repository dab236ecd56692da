"""Small files that take gigabytes or hours to decode: a gateway stays small, quick and stoppable."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from tests.abuse import bombs
from tests.abuse.gateway import Victim, alive, children, cpu_seconds_of_all, gateway, starved
from tests.acceptance.programs import spawn
from tests.support import pictures

MB = 1_000_000
BOUND = 5.0
"""Seconds for a good photo, and for a stop."""
TRIES = 3
"""Of what is bounded by wall time: a busy machine may take longer once, a defect does each time."""
SLOW = {202, 415}
"""Of pictures that are read, though a machine that is busy otherwise may need longer than it may take."""
BOMBS: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "TIFF of one huge tile": (bombs.tiff_tile, {415}),
    "lossless WebP": (bombs.webp_lossless, {413}),
    "PNG, one row of 50 million": (lambda: pictures.png_bomb(49_999_999, 1), {413}),
    "PNG, palette with transparency": (lambda: pictures.png_bomb(10_000, 5000, colour=3), {413}),
    "PNG, RGBA": (lambda: pictures.png_bomb(10_000, 5000), {413}),
    "PNG, 16 bits RGBA": (lambda: pictures.png_bomb(10_000, 5000, depth=16), {413}),
    "PNG, grey with alpha": (lambda: pictures.png_bomb(10_000, 5000, colour=4), {413}),
    "PNG, the largest of RGBA": (lambda: pictures.png_bomb(4096, 3072, depth=16), SLOW),
    "PNG, the largest by palette": (lambda: pictures.png_bomb(4096, 3072, colour=3), SLOW),
    "PNG, an EXIF tag of a million": (bombs.png_exif, {202}),
    "PNG, a million chunks": (lambda: pictures.png_with(b"tEXt", b"", 800_000), {415}),
    "JPEG, progressive, 50 megapixels": (bombs.jpeg_progressive, {413}),
    "JPEG, the largest progressive": (lambda: bombs.jpeg_progressive(4096, 3072), SLOW),
    "JPEG, a million segments": (bombs.jpeg_segments, {415}),
    "JPEG, 100,000 scans": (lambda: bombs.jpeg_scans(100_000), {415}),
    "GIF, a frame beyond its screen": (
        lambda: pictures.gif_header((8, 8), (0, 0, 65_535, 65_535)),
        {413},
    ),
    "GIF, a comment of 9.9 MB": (bombs.gif_comments, {415}),
}


@pytest.fixture
async def victim(amqp_url: str, prefix: str) -> AsyncIterator[Victim]:
    async with gateway(amqp_url, prefix) as running:
        yield running


async def test_two_of_each_at_once_stay_within_a_fixed_memory(victim: Victim) -> None:
    async with victim.watched() as usage:
        for name, (make, statuses) in BOMBS.items():
            data = make()
            answers = await asyncio.gather(victim.photo(data), victim.photo(data))
            assert {answer.status_code for answer in answers} <= statuses, (name, answers[0].text)
            usage.look(victim.pid)
            assert usage.gateway < 150 * MB, name
            assert usage.gateway + usage.children < 512 * MB, name
        assert (await victim.photo(pictures.plain())).status_code == 202
    assert usage.processes <= 2


async def test_the_largest_webps_fit_as_well(victim: Victim) -> None:
    webp = pictures.noise_webp(4096, 3072)
    async with victim.watched() as usage:
        answers = await asyncio.gather(victim.photo(webp), victim.photo(webp))
    assert {answer.status_code for answer in answers} <= {*SLOW, 429}
    assert usage.gateway + usage.children < 512 * MB


async def test_a_phones_50_megapixels_are_no_bomb(victim: Victim) -> None:
    answer = await victim.photo(pictures.phone_photo())
    assert answer.status_code in SLOW, answer.text


async def test_bombs_do_not_keep_a_good_photo_waiting(victim: Victim) -> None:
    scans = bombs.jpeg_scans(150_000)
    await victim.photo(pictures.plain())
    used, waits = cpu_seconds_of_all(victim.pid), list[float]()
    while len(waits) < TRIES and min(waits, default=BOUND) >= BOUND:
        async with asyncio.TaskGroup() as group:
            bad = [group.create_task(victim.photo(scans)) for _ in range(6)]
            began = time.monotonic() - starved(victim.pid, os.getpid())
            good = await victim.photo(pictures.plain())
            waits.append(time.monotonic() - starved(victim.pid, os.getpid()) - began)
        assert good.status_code == 202
        assert {task.result().status_code for task in bad} == {415}
    assert min(waits) < BOUND
    assert cpu_seconds_of_all(victim.pid) - used < 5 * len(waits)


async def test_a_decoder_that_hangs_is_killed_and_replaced(victim: Victim) -> None:
    frozen = await _frozen(victim)
    assert (await victim.photo(pictures.plain())).status_code == 415
    assert not alive(frozen)
    assert (await victim.photo(pictures.plain())).status_code == 202


async def test_a_stop_takes_no_longer_than_the_slowest_picture_may(amqp_url: str, prefix: str) -> None:
    waits: list[float] = []  # the server would wait 10 s for the open request
    while len(waits) < TRIES and min(waits, default=BOUND) >= BOUND:
        async with gateway(amqp_url, prefix) as victim:
            frozen = await _frozen(victim)
            async with asyncio.TaskGroup() as group:
                group.create_task(_sent(victim, pictures.plain()))
                await asyncio.sleep(0.2)  # until the body is there; less only makes the test easier
                began = time.monotonic()
                os.kill(victim.pid, signal.SIGTERM)
                await victim.program.process.wait()
                waits.append(time.monotonic() - began)
        assert not alive(frozen)
    assert min(waits) < BOUND


async def test_no_decoder_outlives_a_gateway_that_is_killed(amqp_url: str, prefix: str) -> None:
    env = {"ECO2_AMQP_URL": amqp_url, "ECO2_PREFIX": prefix, "ECO2_PORT": "0", "OPENAI_API_KEY": "sk-secret"}
    program = await spawn("eco2", "gateway", env=env)
    async with asyncio.TaskGroup() as group:
        group.create_task(program.read())
        await program.listening()
        await program.ready()
        async with httpx.AsyncClient(base_url=program.url, trust_env=False) as http:
            await asyncio.gather(*(Victim(program, http).photo(pictures.plain()) for _ in range(4)))
        decoders = children(program.process.pid)
        program.process.kill()
        await program.process.wait()
    assert decoders
    async with asyncio.timeout(10):
        while any(alive(pid) for pid in decoders):  # noqa: ASYNC110  # the kernel sets no event
            await asyncio.sleep(0.05)


async def _frozen(victim: Victim) -> int:
    """Stops the gateway's decoder, as a picture without end would occupy it; its pid."""
    assert (await victim.photo(pictures.plain())).status_code == 202
    (decoder,) = children(victim.pid)
    os.kill(decoder, signal.SIGSTOP)
    return decoder


async def _sent(victim: Victim, data: bytes) -> int:
    """The status, or 0 where the gateway ended before it answered."""
    try:
        return (await victim.photo(data)).status_code
    except httpx.HTTPError:
        return 0
