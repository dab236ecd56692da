"""A picture's file before it is decoded: its format and size, and only the parts that a decoder needs.

Guarantees: an accepted file has one of four formats and a bounded size and number of scans, read from its own
headers; metadata is dropped, except 64 kB of EXIF. The time is bounded by the file's length. No decoder is
imported, so processes that need only the format stay small.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from eco2.errors import InvalidInput

MAX_BYTES = 10_000_000
MAX_SIDE = 16_384
MAX_BASELINE_PIXELS = 51_000_000
"""A phone's 8160 × 6144. A decoder scales a baseline JPEG while it reads it, and never holds it whole."""
MAX_PIXELS = 12_600_000
"""Of every other file (4096 × 3072): a decoder holds all pixels, or a progressive JPEG's coefficients."""
MAX_SCANS = 64
"""Of a JPEG. Encoders write about ten; each costs a walk over the whole picture, however short it is."""
MAX_SEGMENTS = 1_000
"""Of a JPEG. A colour profile has at most 255, and 10 MB of metadata about 160."""
MAX_BLOCKS = 20_000
"""Chunks of a PNG, or blocks before the first picture of a GIF."""
MAX_EXIF = 65_536

TAKEN = "send a JPEG, PNG, WebP or GIF"

Format = Literal["JPEG", "PNG", "WEBP", "GIF"]

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
"""A JPEG's next marker: neither a stuffed byte nor one that only restarts the decoder. Not `\xff+` for
fill bytes before it: that takes a time that grows with the square of their number."""
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SOS, _EOI = 0xDA, 0xD9
_SINGLE = frozenset({0x01, 0xD8})
"""Markers without a length."""


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A checked file. `data`: the parts that a decoder needs. `baseline`: a JPEG decoded row by row."""

    format: Format
    width: int
    height: int
    data: bytes
    baseline: bool = False


def format_of(data: bytes) -> Format:
    """Returns the format by the first bytes. Raises `InvalidInput` for other and for too long files."""
    if not data:
        raise unsupported(f"the picture is empty (0 bytes): {TAKEN}")
    if len(data) > MAX_BYTES:
        raise too_large(f"the picture is larger than {MAX_BYTES // 1_000_000} MB: send a smaller one")
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[4:8] == b"ftyp":
        raise unsupported("HEIC and AVIF pictures, and films, cannot be read: send the picture as a JPEG")
    raise unsupported(f"the file is no picture of a kind that can be read: {TAKEN}")


def read(data: bytes) -> PictureFile:
    """Reads the file's headers. Raises `InvalidInput`: 413 `IMAGE_TOO_LARGE`, 415 `UNSUPPORTED_IMAGE`."""
    kind = format_of(data)
    readers = {"JPEG": read_jpeg, "PNG": read_png, "WEBP": read_webp, "GIF": read_gif}
    try:
        file = readers[kind](data)
    except (struct.error, IndexError) as error:
        raise damaged(kind) from error
    most = MAX_BASELINE_PIXELS if file.baseline else MAX_PIXELS
    if max(file.width, file.height) > MAX_SIDE or file.width * file.height > most:
        raise too_large(
            f"the picture has {file.width} × {file.height} pixels: send one of at most "
            f"{MAX_PIXELS / 1e6:g} megapixels (a baseline JPEG: {MAX_BASELINE_PIXELS / 1e6:g}), and at most "
            f"{MAX_SIDE:,} on its longer side"
        )
    if file.width == 0 or file.height == 0:
        raise damaged(kind)
    return file


def damaged(kind: str) -> InvalidInput:
    """Builds the error for a file that begins as a picture and cannot be read as one."""
    name = {"WEBP": "WebP"}.get(kind, kind)
    return unsupported(f"the {name} file is damaged or incomplete: send it again, or another picture")


def unsupported(message: str) -> InvalidInput:
    """Builds the error for a file that cannot be read."""
    return InvalidInput(message, "UNSUPPORTED_IMAGE", 415)


def too_large(message: str) -> InvalidInput:
    """Builds the error for a picture with too many bytes or pixels."""
    return InvalidInput(message, "IMAGE_TOO_LARGE", 413)


def read_jpeg(data: bytes) -> PictureFile:
    """Keeps the header's tables, frame and colour segments, one EXIF segment, and all scans.

    A file whose first scan lacks a colour is decoded as a progressive one: whole, as coefficients.
    """
    kept, frame, scans, begin, end = [b"\xff\xd8"], b"", 0, 0, len(data)
    exif = baseline = False
    for marker, at, segment in jpeg_segments(data):
        if marker == _EOI:
            end = at + 2
            break
        if marker == _SOS:
            scans += 1
            if scans == 1:
                begin, baseline = at, bool(frame) and frame[0] in (0xC0, 0xC1) and segment[4] == frame[8]
            elif scans > MAX_SCANS:
                raise unsupported(f"the JPEG has more than {MAX_SCANS} scans: save it as a baseline JPEG")
            baseline = baseline and scans == 1
        elif scans == 0:
            if marker in _SOF:
                frame = segment[1:]
            if is_needed(marker, segment) or (not exif and segment[4:10] == b"Exif\0\0"):
                exif = exif or marker == 0xE1
                kept.append(segment)
    if not frame or not scans:
        raise damaged("JPEG")
    height, width = struct.unpack_from(">HH", frame, 4)
    return PictureFile("JPEG", width, height, b"".join(kept) + data[begin:end], baseline)


def is_needed(marker: int, segment: bytes) -> bool:
    """Returns whether a decoder needs the segment: no comment, and only JFIF and Adobe of APPn."""
    if marker in (0xE0, 0xEE):
        return segment[4:9] in (b"JFIF\0", b"Adobe")
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields (marker, offset, segment from its marker on), without the coded data in between."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        begin = at - 2
        if marker in _SINGLE:
            continue
        if marker == _EOI:
            yield marker, begin, b""
            return
        (length,) = struct.unpack_from(">H", data, at)
        yield marker, begin, data[begin : at + length]
        at += length
    raise unsupported(f"the JPEG has more than {MAX_SEGMENTS:,} segments: save it without metadata")


def read_png(data: bytes) -> PictureFile:
    """Keeps the chunks that define the pixels, and EXIF of usual size, for the orientation."""
    width, height = struct.unpack_from(">II", data, 16)
    kept, at = [_PNG], len(_PNG)
    for _ in range(MAX_BLOCKS):
        if at >= len(data):
            break
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _PNG_KEPT or (name == b"eXIf" and length <= MAX_EXIF):
            kept.append(data[at : at + 12 + length])
        at += 12 + length
        if name == b"IEND":
            break
    else:
        raise unsupported(f"the PNG has more than {MAX_BLOCKS:,} chunks: save it again")
    return PictureFile("PNG", width, height, b"".join(kept))


def read_webp(data: bytes) -> PictureFile:
    """Reads the size of the canvas, or of the only frame; decoders refuse a frame above its canvas."""
    width = height = 0
    match data[12:16]:
        case b"VP8 ":
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8X":
            low, high, low2, high2 = struct.unpack_from("<HBHB", data, 24)
            width, height = 1 + low + (high << 16), 1 + low2 + (high2 << 16)
    return PictureFile("WEBP", width, height, data)


def read_gif(data: bytes) -> PictureFile:
    """Keeps only the transparency block of those before the first picture.

    That picture may reach beyond the screen that the header names.
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    at = 13 + (3 << (1 + (flags & 7)) if flags & 0x80 else 0)  # after the colour table
    kept, blocks = [data[:at]], 0
    while data[at] == 0x21:
        begin, control = at, data[at + 1] == 0xF9
        at += 2
        while (length := data[at]) != 0:
            at, blocks = at + 1 + length, blocks + 1
            if blocks > MAX_BLOCKS:
                raise unsupported(f"the GIF has more than {MAX_BLOCKS:,} blocks of metadata: save it without")
        at += 1
        if control:
            kept[1:] = [data[begin:at]]
    left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
    if data[at] != 0x2C:
        raise damaged("GIF")
    return PictureFile("GIF", max(width, left + wide), max(height, top + high), b"".join(kept) + data[at:])
