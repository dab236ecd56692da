"""Shrinks a picture to a JPEG of at most 512 px and 64 kB, upright, without metadata.

`confined` runs in a process of its own and limits it; the parent imposes the time-out. Only the decoder is
imported here, so that such a process is small and starts fast.
"""

import io
import resource
import signal

from PIL import Image

from eco2 import picturefile
from eco2.errors import InvalidInput
from eco2.picturefile import Format, PictureFile

SIDE = 512
MAX_JPEG_BYTES = 64_000

FILTER = Image.Resampling.HAMMING
"""Half the CPU time of LANCZOS; a model that looks at 512 px does not miss the rest."""

MAX_WEBP_MEMORY = 304 * 2**20
MAX_MEMORY = 208 * 2**20
"""Bytes of a decoding process's address space, libraries included, while it decodes a WebP or anything else:
enough for the largest picture of each (16 bytes a pixel, or 9)."""
MAX_CPU = 4
"""Seconds for one picture: ends a process that outlived its parent in the midst of one."""

TOO_MUCH = "the picture takes too much memory: send a smaller one"

_QUALITIES = (85, 75, 60, 45, 30)
_ORIENTATION = 0x0112
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each orientation of EXIF."""


def confine() -> None:
    """Limits this process and ignores SIGINT and SIGTERM.

    Signals of a terminal or a service manager are for the parent, which ends this process: by a kill, or by
    closing its standard input.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    set_limit(resource.RLIMIT_AS, MAX_MEMORY)
    Image.preinit()


def confined(data: bytes, kind: Format) -> bytes:
    """Limits this process, then runs `to_jpeg`."""
    confine()
    used = resource.getrusage(resource.RUSAGE_SELF)
    set_limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + MAX_CPU)
    set_limit(resource.RLIMIT_AS, MAX_WEBP_MEMORY if kind == "WEBP" else MAX_MEMORY)
    return to_jpeg(data)


def set_limit(what: int, most: int) -> None:
    """Sets the soft limit, which the process may change for its next picture."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def to_jpeg(data: bytes) -> bytes:
    """Returns the small JPEG. Blocks for up to some tenths of a second. Raises `InvalidInput`."""
    file = picturefile.read(data)
    try:
        small = shrink(file)
    except InvalidInput:
        raise
    except (MemoryError, Image.DecompressionBombError) as error:
        raise picturefile.too_large(TOO_MUCH) from error
    except Exception as error:  # decoders of four formats, and what broken files make of each
        raise picturefile.damaged(file.format) from error
    while len(jpeg := encode(small)) > MAX_JPEG_BYTES:
        small.thumbnail((small.width * 3 // 4, small.height * 3 // 4), FILTER)
    return jpeg


def shrink(file: PictureFile) -> Image.Image:
    """Returns the first frame, small and upright.

    It is shrunk before anything copies it, and a JPEG is decoded no wider than needed.
    """
    with Image.open(io.BytesIO(file.data), formats=(file.format,)) as image:
        if image.width * image.height > file.width * file.height:  # other than the headers that were checked
            raise picturefile.damaged(file.format)
        image.draft("RGB", (SIDE, SIDE))
        image.load()
        wide: Image.Image = image
        if image.mode in ("1", "P", "PA"):  # these shrink by leaving out pixels
            wide = image.convert("RGBA" if image.has_transparency_data else "RGB")
        gap = None if wide.mode.startswith("I;16") else 2.0  # `reduce` cannot shrink these
        wide.thumbnail((SIDE, SIDE), FILTER, reducing_gap=gap)
        turned = _TURNED.get(orientation(image))
        return opaque(wide if turned is None else wide.transpose(turned))


def orientation(image: Image.Image) -> int:
    """Returns EXIF's 1 to 8; 1 if it is missing, or EXIF is longer than any camera's."""
    if len(image.info.get("exif", b"")) > picturefile.MAX_EXIF:
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def opaque(image: Image.Image) -> Image.Image:
    """Returns RGB on white: the colour under transparent pixels is arbitrary, often black."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I"):
        image = image.point(lambda value: value / 256).convert("L")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layers = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")


def encode(image: Image.Image) -> bytes:
    """Encodes with the best quality that fits `MAX_JPEG_BYTES`, else with the lowest."""
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
