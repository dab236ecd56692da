"""Photos are made small in other processes, and whatever becomes of those, a client gets its answer."""

import asyncio
import base64
import io
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from eco2 import thumbnail
from eco2.picturefile import Format
from eco2.pipeline import InvalidInput
from eco2.stages import photo
from eco2.stages.photo import from_data_url, normalise, normalise_url
from tests.support import decoders, pictures

Decoder = Callable[[bytes, Format], bytes]


def use(monkeypatch: pytest.MonkeyPatch, decoder: Decoder) -> None:
    monkeypatch.setattr(thumbnail, "confined", decoder)


async def refusal(data: bytes) -> tuple[str, int]:
    with pytest.raises(InvalidInput) as refused:
        await normalise(data)
    return refused.value.code, refused.value.status


def payload(url: str) -> bytes:
    header, _, payload = url.partition(",")
    assert header == "data:image/jpeg;base64"
    return base64.b64decode(payload)


def children() -> list[int]:
    return [
        int(child)
        for task in Path("/proc/self/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def address_space(pid: int) -> int:
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in limits if line.startswith("Max address space"))


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_a_photo_comes_back_as_a_small_jpeg() -> None:
    small = Image.open(io.BytesIO(payload(await normalise(pictures.plain("PNG", 2000)))))
    assert (small.format, small.size) == ("JPEG", (512, 512))


async def test_a_data_url_goes_the_same_way() -> None:
    data = pictures.plain("WEBP")
    url = "data:image/webp;base64," + base64.b64encode(data).decode()
    assert await normalise_url(url) == await normalise(data)


async def test_a_refusal_of_the_decoder_arrives_with_its_code() -> None:
    assert await refusal(pictures.noise("JPEG", 100)[:-2000]) == ("UNSUPPORTED_IMAGE", 415)
    assert await refusal(pictures.bomb(10_000, 10_000)) == ("IMAGE_TOO_LARGE", 413)


async def test_it_is_another_process_that_decodes_and_it_is_used_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, decoders.pid)
    first, second = [int(payload(await normalise(pictures.plain()))) for _ in range(2)]
    assert first == second != os.getpid()


async def test_the_process_has_no_keys_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("ECO2_AMQP_URL", "amqp://user:secret@broker")
    use(monkeypatch, decoders.environment)
    names = {
        line.partition(b"=")[0].decode() for line in payload(await normalise(pictures.plain())).split(b"\0")
    }
    assert [name for name in names if not name.startswith(("PYTHON", "LD_", "MALLOC_", "PILLOW_"))] in (
        [],
        [""],
    )


async def test_the_process_is_limited_and_leaves_signals_to_its_parent() -> None:
    await normalise(pictures.plain())
    (child,) = children()
    assert address_space(child) < 350e6
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(child, number)
    await normalise(pictures.plain())
    assert alive(child)


async def test_a_decoder_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, decoders.pid)
    process = int(payload(await normalise(pictures.plain())))
    use(monkeypatch, decoders.endless)
    monkeypatch.setattr(photo, "MAX_SECONDS", 0.1)
    assert await refusal(pictures.plain()) == ("UNSUPPORTED_IMAGE", 415)
    assert not alive(process)
    monkeypatch.undo()
    assert await normalise(pictures.plain())


@pytest.mark.parametrize(
    ("decoder", "code"),
    [(decoders.crashing, ("UNSUPPORTED_IMAGE", 415)), (decoders.greedy, ("IMAGE_TOO_LARGE", 413))],
)
async def test_a_decoder_that_dies_costs_that_picture_only(
    decoder: Decoder, code: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, decoder)
    assert await refusal(pictures.plain()) == code
    monkeypatch.undo()
    assert await normalise(pictures.plain())


async def test_a_process_that_is_killed_between_two_photos_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(monkeypatch, decoders.pid)
    process = int(payload(await normalise(pictures.plain())))
    os.kill(process, signal.SIGKILL)
    assert int(payload(await normalise(pictures.plain()))) != process


async def test_more_than_64_never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, decoders.endless)
    monkeypatch.setattr(photo, "MAX_SECONDS", 60)
    async with asyncio.TaskGroup() as group:
        inside = [group.create_task(normalise(pictures.plain())) for _ in range(2 + 64)]
        await asyncio.sleep(0)  # each is inside now
        assert await refusal(pictures.plain()) == ("OVER_CAPACITY", 429)
        for task in inside:
            task.cancel()
    monkeypatch.undo()
    assert await normalise(pictures.plain())


async def test_a_photo_waits_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, decoders.endless)
    monkeypatch.setattr(photo, "MAX_SECONDS", 60)
    monkeypatch.setattr(photo, "MAX_WAIT", 0.1)
    async with asyncio.TaskGroup() as group:
        busy = [group.create_task(normalise(pictures.plain())) for _ in range(2)]
        await asyncio.sleep(0)
        assert await refusal(pictures.plain()) == ("OVER_CAPACITY", 429)
        for task in busy:
            task.cancel()


def test_the_processes_end_with_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, decoders.pid)
    process = int(payload(asyncio.run(normalise(pictures.plain()))))
    assert not alive(process)
    assert int(payload(asyncio.run(normalise(pictures.plain())))) != process


def test_a_data_url_gives_its_bytes() -> None:
    assert from_data_url("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"


@pytest.mark.parametrize("url", ["data:text/html;base64,eA==", "data:image/png,x", "data:image/png;base64,?"])
def test_other_data_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_data_url(url)
    assert refused.value.code == "UNSUPPORTED_IMAGE"


async def test_too_many_bytes_are_refused_undecoded() -> None:
    assert await refusal(b"\0" * 10_000_001) == ("IMAGE_TOO_LARGE", 413)
    with pytest.raises(InvalidInput) as refused:
        from_data_url("data:image/png;base64," + "A" * (10_000_000 * 4 // 3 + 8))
    assert refused.value.code == "IMAGE_TOO_LARGE"
