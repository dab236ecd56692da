"""Pictures that tests make by themselves: good, odd and hostile ones, as the bytes of a file."""

import io
import struct
import zlib

from PIL import Image

RED, BLUE = (220, 20, 20), (20, 20, 220)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The image as a file of that kind."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def plain(kind: str = "JPEG", side: int = 64) -> bytes:
    """A red square."""
    return encoded(Image.new("RGB", (side, side), RED), kind)


def noise(kind: str, side: int) -> bytes:
    """What packs badly: some kB even where it is small."""
    return encoded(Image.effect_noise((side, side), 90).convert("RGB"), kind)


def animated(kind: str) -> bytes:
    """Red at first, then blue."""
    first, then = (Image.new("RGB", (64, 64), colour) for colour in (RED, BLUE))
    return encoded(first, kind, save_all=True, append_images=[then], duration=100)


def cmyk() -> bytes:
    """A JPEG in printers' colours."""
    return encoded(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "JPEG")


def sixteen_bits() -> bytes:
    """A PNG with 65,536 greys."""
    return encoded(Image.new("I;16", (64, 64), 0x8000), "PNG")


def palette_with_holes() -> bytes:
    """A PNG of colours by number, of which one is transparent."""
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, *RED])
    return encoded(image, "PNG", transparency=0)


def large_photo() -> bytes:
    """12 megapixels, as a phone takes them: some MB of JPEG."""
    size = (4000, 3000)
    coarse = Image.effect_noise((200, 150), 80).resize(size, Image.Resampling.BICUBIC)
    layers = [Image.blend(coarse, Image.effect_noise(size, 20), 0.4) for _ in range(3)]
    return encoded(Image.merge("RGB", layers), "JPEG", quality=85)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some kB that is `width` × `height` pixels of white when opened."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" + b"\xff" * (width // 8)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
