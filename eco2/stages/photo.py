"""Photos as clients send them, made small: JPEG, at most 512 px and 64 kB, upright, without metadata.

Guarantees: sizes are checked before anything is decoded; decoding runs on two threads of its own, so that
neither the event loop nor anyone else's threads wait for it, and at most two pictures are in memory at once.
"""

import asyncio
import base64
import binascii
import io
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from PIL import Image, ImageOps

from eco2.pipeline import InvalidInput

MAX_BYTES = 10_000_000
MAX_PIXELS = 50_000_000
SIDE = 512
MAX_JPEG_BYTES = 64_000

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_QUALITIES = (85, 75, 60, 45, 30)


async def normalise(data: bytes) -> str:
    """The picture as a `data:` URL. Raises `InvalidInput`: 413 `IMAGE_TOO_LARGE`, 415 `UNSUPPORTED_IMAGE`."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _to_data_url, data)


async def normalise_url(url: str) -> str:
    """The same for the picture in a `data:` URL. Raises `InvalidInput`, like `from_data_url` besides."""
    return await asyncio.get_running_loop().run_in_executor(
        _threads(), lambda: _to_data_url(from_data_url(url))
    )


def _to_data_url(data: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(to_jpeg(data)).decode()


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="photo")


def from_data_url(url: str) -> bytes:
    """The bytes of a `data:image/...;base64,` URL. Raises `InvalidInput`."""
    header, _, payload = url.partition(",")
    if len(payload) > MAX_BYTES * 4 / 3 + 4:
        raise _too_large()
    if not header.lower().startswith("data:image/") or not header.lower().endswith(";base64"):
        raise _unsupported("image_url is not a data:image/...;base64 URL")
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _unsupported(f"image_url is not valid base64 ({error})") from error


def to_jpeg(data: bytes) -> bytes:
    """The picture as a small JPEG. Blocks for up to some tenths of a second. Raises `InvalidInput`."""
    if len(data) > MAX_BYTES:
        raise _too_large()
    try:
        small = _read_small(io.BytesIO(data))
    except InvalidInput:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large() from error
    except Exception as error:  # readers of a dozen formats, and what broken files make of each
        raise _unsupported(f"the picture cannot be read ({error})") from error
    while len(jpeg := _encode(small)) > MAX_JPEG_BYTES:
        small.thumbnail((small.width * 3 // 4, small.height * 3 // 4), Image.Resampling.LANCZOS)
    return jpeg


def _read_small(file: io.BytesIO) -> Image.Image:
    """The first frame, upright. It is made small before anything else copies it: a photo may be 200 MB wide
    open, and JPEG is never opened wider than needed."""
    with Image.open(file, formats=_FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise _too_large()
        image.draft("RGB", (SIDE, SIDE))
        image.load()
        wide: Image.Image = image
        if image.mode in ("1", "P", "PA"):  # these shrink by leaving out pixels
            wide = image.convert("RGBA" if image.has_transparency_data else "RGB")
        wide.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
        ImageOps.exif_transpose(wide, in_place=True)
        return _opaque(wide)


def _opaque(image: Image.Image) -> Image.Image:
    """RGB on white: what lies under transparent pixels is arbitrary, often black."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        image = image.point(lambda value: value / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def _encode(image: Image.Image) -> bytes:
    """The best quality that fits, else the least."""
    clean = Image.new("RGB", image.size)
    clean.paste(image)
    encoded = b""
    for quality in _QUALITIES:
        file = io.BytesIO()
        clean.save(file, "JPEG", quality=quality)
        encoded = file.getvalue()
        if len(encoded) <= MAX_JPEG_BYTES:
            break
    return encoded


def _too_large() -> InvalidInput:
    return InvalidInput(
        f"the picture is larger than {MAX_BYTES // 1_000_000} MB or {MAX_PIXELS // 1_000_000} megapixels: "
        "send a smaller one",
        "IMAGE_TOO_LARGE",
        413,
    )


def _unsupported(reason: str) -> InvalidInput:
    return InvalidInput(f"{reason}: send a JPEG, PNG, WebP or GIF", "UNSUPPORTED_IMAGE", 415)
