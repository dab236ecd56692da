"""Reads the size of a picture from the first bytes of its file: no pixel is decoded, nothing is fetched.

The fake provider (`eco2/fake`) reads sizes by code of its own, so that neither can hide a fault of the other.
"""

import binascii
import struct

Size = tuple[int, int]
"""Width and height in pixels."""

_HEAD = 4096
"""Characters of base64 that show the size of all but a JPEG with long metadata; a multiple of 4."""
_NO_FRAME = frozenset({0xC4, 0xC8, 0xCC})
"""Markers of a JPEG that stand among those of its frames and are none (tables)."""


def size_of(url: str) -> Size | None:
    """Reads the size of the picture in a `data:` URL; None for any other URL, and where that fails."""
    kind, comma, _ = url[:100].partition(";base64,")
    if not comma or not kind.startswith("data:image/"):
        return None
    begin = len(kind) + len(comma)
    for end in (begin + _HEAD, len(url)):
        try:
            head = binascii.a2b_base64(url[begin:end])
        except ValueError:  # no base64, or no ASCII
            return None
        size = _size(head)
        if size is not None:
            return size if size[0] and size[1] else None
    return None


def _size(head: bytes) -> Size | None:
    try:
        if head[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", head, 16)
            return width, height
        if head[:4] == b"GIF8":
            width, height = struct.unpack_from("<HH", head, 6)
            return width, height
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(head)
        return _jpeg(head) if head[:2] == b"\xff\xd8" else None
    except (struct.error, IndexError):
        return None  # the part that was read ends before the size


def _webp(head: bytes) -> Size | None:
    match head[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", head, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8X":
            low, high, low2, high2 = struct.unpack_from("<HBHB", head, 24)
            return 1 + low + (high << 16), 1 + low2 + (high2 << 16)
    return None


def _jpeg(head: bytes) -> Size | None:
    """Goes from marker to marker until a frame's, which height and width follow."""
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAME:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        if marker == 0xFF:  # padding
            at += 1
            continue
        (length,) = struct.unpack_from(">H", head, at + 2)
        at += 2 + length
    return None
