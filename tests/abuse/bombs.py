"""Files of pictures that cost far more than they weigh: each made in code, at most 10 MB."""

import struct

from PIL import Image

from tests.support import pictures

MEGAPIXELS_50 = 50_000_000


def tiff_tile() -> bytes:
    """172 bytes: a TIFF of 16 × 16 pixels in one tile of 65,520 × 32,768, which a decoder allocates."""
    tags = [
        (256, 3, 1, 16),  # width
        (257, 3, 1, 16),  # height
        (258, 3, 1, 8),  # bits a sample
        (259, 3, 1, 1),  # not compressed
        (262, 3, 1, 1),  # black is 0
        (277, 3, 1, 1),  # samples a pixel
        (322, 4, 1, 65_520),  # the tile's width
        (323, 4, 1, 32_768),  # and height
        (324, 4, 1, 158),  # where it begins
        (325, 4, 1, 14),  # its bytes
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0" + b"\0" * 38


def webp_lossless(width: int = 16_383, height: int = 3050) -> bytes:
    """34 bytes: a lossless WebP of one colour, of which a decoder makes 16 bytes a pixel."""
    return pictures.webp_header(width, height)


def jpeg_progressive(width: int = 8160, height: int = 6144) -> bytes:
    """Some 600 kB: a progressive JPEG with all colours at full size: coefficients of 6 bytes a pixel."""
    image = Image.new("RGB", (width, height), (9, 99, 199))
    return pictures.encoded(image, "JPEG", progressive=True, subsampling=0)


def jpeg_segments(count: int = 1_600_000) -> bytes:
    """9.6 MB: a JPEG with as many empty APP2 segments in its header."""
    good = pictures.plain()
    return good[:2] + b"\xff\xe2\0\4ab" * count + good[2:]


def jpeg_scans(count: int, width: int = 4096, height: int = 3072) -> bytes:
    """About 50 bytes a scan: a progressive JPEG of one colour, refined again and again as a whole. A scan
    consists of runs of 32,767 blocks in which nothing changes, and costs a walk over all coefficients."""
    good = pictures.encoded(Image.new("L", (width, height), 128), "JPEG", progressive=True)
    table = bytes([0x10, 0, 0, 1]) + bytes(13) + bytes([0xE0])  # 000: a run of 2^14 blocks, and 14 bits more
    code = ("000" + "1" * 14) * -(-width * height // 64 // 32_767)
    code += "1" * (-len(code) % 8)
    coded = int(code, 2).to_bytes(len(code) // 8, "big").replace(b"\xff", b"\xff\0")
    refinement = bytes([1, 1, 0, 1, 63, 0x10])
    scan = pictures.segment(0xC4, table) + pictures.segment(0xDA, refinement) + coded
    return good[: good.rindex(b"\xff\xd9")] + scan * count + b"\xff\xd9"


def png_exif(count: int = 1_190_000) -> bytes:
    """9.6 MB: a PNG whose EXIF gives the orientation as as many fractions."""
    exif = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 5, count, 26) + b"\0" * 4
    return pictures.png_with(b"eXIf", exif + b"\1\0\0\0\1\0\0\0" * count)


def gif_comments(count: int = 39_000) -> bytes:
    """9.9 MB: a GIF with one comment of as many blocks, which a reader joins one by one."""
    comment = b"\x21\xfe" + (b"\xfe" + b"c" * 254) * count + b"\0"
    return pictures.gif_header((8, 8), (0, 0, 8, 8), comment)
