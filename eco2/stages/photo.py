"""Normalises photos in decoding processes: JPEG, at most 512 px and 64 kB, upright.

Guarantees: no picture is decoded in this process. A decoding process has a bounded memory, is killed after
`MAX_SECONDS`, and there are at most two, which end with the event loop and with this process, however it
ends. At most `MAX_WAITING` pictures wait for them. The cost: 20 MB for each process, 0.2 s for the first
picture, and a copy of the file on its way (docs/decisions/0028-pictures-in-processes.md).
"""

import asyncio
import base64
import binascii
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from anyio import BrokenWorkerProcess, CapacityLimiter, open_process, to_process
from anyio.lowlevel import RunVar

from eco2 import picturefile, thumbnail
from eco2.picturefile import MAX_BYTES, Format
from eco2.pipeline import InvalidInput

PROCESSES = 2
RUNTIME = ("PYTHON", "LD_", "MALLOC_")
"""Beginnings of the variables that a decoding process gets."""
PILLOW = {"PILLOW_BLOCK_SIZE": "1m", "PILLOW_BLOCKS_MAX": "4"}
"""Keeps 4 MB for the next picture: to get that memory anew took a fifth of the time of a small one."""
DECODERS_MB = 268.0
"""Room in a gateway's memory limit for these processes. They may take some 430 MB for a moment; the limit has
the rest already, since it is twice what the gateway needs."""
MAX_WAITING = 64
MAX_WAIT = 5.0
"""Seconds that a picture waits for a process. With `MAX_SECONDS` less than a stop waits for open requests."""
MAX_SECONDS = 3.0
"""For one picture, of which the slowest take one."""


async def normalise(data: bytes) -> str:
    """Returns the picture as a `data:` URL.

    Raises `InvalidInput`: 413 `IMAGE_TOO_LARGE`, 415 `UNSUPPORTED_IMAGE`, 429 `OVER_CAPACITY`.
    """
    kind = picturefile.format_of(data)
    try:
        decoders = _OF_LOOP.get()  # processes belong to the event loop that started them
    except LookupError:
        _OF_LOOP.set(decoders := Decoders())
    async with decoders.slot(kind):
        jpeg = await decoders.decode(data, kind)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


async def normalise_url(url: str) -> str:
    """Normalises the picture in a `data:` URL. Raises `InvalidInput`."""
    return await normalise(await asyncio.to_thread(from_data_url, url))


def from_data_url(url: str) -> bytes:
    """Decodes a `data:image/...;base64,` URL. Raises `InvalidInput`."""
    header, _, payload = url.partition(",")
    if len(payload) > MAX_BYTES * 4 / 3 + 4:
        raise picturefile.too_large(
            f"the picture is larger than {MAX_BYTES // 1_000_000} MB: send a smaller one"
        )
    if not header.lower().startswith("data:image/") or not header.lower().endswith(";base64"):
        raise picturefile.unsupported(
            f"image_url is not a data:image/...;base64 URL: {picturefile.TAKEN} as one, or as the file image"
        )
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise picturefile.unsupported(
            "image_url is not valid base64: encode the file's bytes, without line breaks"
        ) from error


class Decoders:
    """The decoding processes of one event loop, for two pictures at once.

    Only one of the two may be a WebP, since a large one takes 240 MB and others 150. `_warm`: processes that
    are idle and have loaded their libraries.
    """

    def __init__(self) -> None:
        # anyio gives its processes the whole environment, keys included; these need only how to run Python.
        environment = {name: value for name, value in os.environ.items() if name.startswith(RUNTIME)} | PILLOW
        to_process.open_process = partial(open_process, env=environment)  # type: ignore[attr-defined]
        self._any = CapacityLimiter(PROCESSES)
        self._webp = CapacityLimiter(1)
        self._inside = 0
        self._warm = 0

    @asynccontextmanager
    async def slot(self, kind: Format) -> AsyncIterator[None]:
        """Holds a process for a picture of this format. Raises `InvalidInput` if the wait is too long."""
        busy = InvalidInput(
            "too many pictures are being read at present: send the request again", "OVER_CAPACITY", 429
        )
        if self._inside >= PROCESSES + MAX_WAITING:
            raise busy
        self._inside += 1
        try:
            async with AsyncExitStack() as held:
                try:
                    async with asyncio.timeout(MAX_WAIT):
                        if kind == "WEBP":
                            await held.enter_async_context(self._webp)
                        await held.enter_async_context(self._any)
                except TimeoutError as error:
                    raise busy from error
                yield
        finally:
            self._inside -= 1

    async def decode(self, data: bytes, kind: Format) -> bytes:
        """Returns the small JPEG. Raises `InvalidInput`.

        A process that ends under a picture is replaced once: it may have been killed for another reason.
        """
        for _ in range(2):
            try:
                return await self._attempt(data, kind)
            except TimeoutError as error:
                raise picturefile.unsupported(
                    f"the picture takes longer than {MAX_SECONDS:g} s to read: save it as a baseline JPEG"
                ) from error
            except MemoryError as error:
                raise picturefile.too_large(thumbnail.TOO_MUCH) from error
            except BrokenWorkerProcess:
                continue
        raise picturefile.unsupported("the picture cannot be read: save it as a baseline JPEG")

    async def _attempt(self, data: bytes, kind: Format) -> bytes:
        # The limiters here are never waited for: `run_sync` would copy the picture before it waits.
        if self._warm:
            self._warm -= 1
        else:  # outside the time-out: a busy machine needs long to start a process
            await to_process.run_sync(thumbnail.confine, limiter=CapacityLimiter(1))
        try:
            async with asyncio.timeout(MAX_SECONDS):
                jpeg = await to_process.run_sync(
                    thumbnail.confined, data, kind, cancellable=True, limiter=CapacityLimiter(1)
                )
        except (InvalidInput, MemoryError):
            self._warm += 1
            raise
        self._warm += 1
        return jpeg


_OF_LOOP: RunVar[Decoders] = RunVar("decoders of photos")
