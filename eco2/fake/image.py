"""Checks that OpenAI would accept an image, and reads its size. The picture is not decoded.

Only the header of a `data:` URL is read (the first kilobytes; for a JPEG with long metadata, all of it). An
http(s) URL is never fetched; its image counts as 1024 × 1024.
"""

import binascii
import re
import struct
from urllib.parse import urlsplit

from eco2.fake.api_error import invalid

REMOTE_SIZE = (1024, 1024)
_DATA_URL = re.compile(r"data:image/(png|jpe?g|gif|webp);base64,")
_HEAD = 8192  # characters of base64, a multiple of 4
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def size_of(url: str, param: str) -> tuple[int, int]:
    """Returns width and height in pixels. Raises an ApiError (400) for anything that is no usable image."""
    if url.startswith("data:"):
        return data_url_size(url, param)
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise invalid("Invalid image URL: give an http(s) or a data: URL.", param, "invalid_image_url")
    return REMOTE_SIZE


def data_url_size(url: str, param: str) -> tuple[int, int]:
    """Returns the size of the image in a `data:` URL."""
    match = _DATA_URL.match(url, 0, 32)
    if match is None:
        message = "Unsupported image: give data:image/png, jpeg, gif or webp with ;base64."
        raise invalid(message, param, "invalid_image_format")
    start = match.end()
    if (len(url) - start) % 4:
        raise invalid("Invalid base64 in the image: its length is no multiple of 4.", param, "invalid_base64")
    for end in (start + _HEAD, len(url)):
        try:
            head = binascii.a2b_base64(url[start:end], strict_mode=True)
        except (binascii.Error, ValueError) as error:
            raise invalid(f"Invalid base64 in the image: {error}.", param, "invalid_base64") from error
        if (size := pixels(head)) is not None:
            return size
    raise invalid(
        "The image's header cannot be read: send a whole PNG, JPEG, GIF or WebP.", param, "invalid_image"
    )


def pixels(head: bytes) -> tuple[int, int] | None:
    """Returns width and height from the first bytes of a PNG, GIF, WebP or JPEG, if these have them."""
    if head.startswith(b"\x89PNG\r\n\x1a\n") and len(head) >= 24:
        return nonzero(*struct.unpack(">II", head[16:24]))
    if head.startswith((b"GIF87a", b"GIF89a")) and len(head) >= 10:
        return nonzero(*struct.unpack("<HH", head[6:10]))
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP" and len(head) >= 30:
        return webp_size(head)
    if head.startswith(b"\xff\xd8"):
        return jpeg_size(head)
    return None


def nonzero(width: int, height: int) -> tuple[int, int] | None:
    """Returns the size unless it is empty."""
    return (width, height) if width and height else None


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Returns the size of a WebP."""
    if head[12:16] == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return nonzero(width & 0x3FFF, height & 0x3FFF)
    if head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if head[12:16] == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def jpeg_size(head: bytes) -> tuple[int, int] | None:
    """Returns the size of a JPEG."""
    at = 2
    while at + 9 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _START_OF_FRAME:
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return nonzero(width, height)
        at += 2 + int.from_bytes(head[at + 2 : at + 4])
    return None
