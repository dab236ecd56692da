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


def phone_photo() -> bytes:
    """The 50 megapixels (8160 × 6144) of a phone, as some MB of baseline JPEG."""
    coarse = Image.effect_noise((510, 384), 80).resize((8160, 6144), Image.Resampling.BICUBIC)
    return encoded(Image.merge("RGB", [coarse] * 3), "JPEG", quality=85)


def noise_webp(width: int, height: int) -> bytes:
    """Some MB of WebP with alpha."""
    coarse = Image.effect_noise((width // 16, height // 16), 90).resize((width, height))
    return encoded(Image.merge("RGBA", [coarse] * 4), "WEBP", method=0, quality=60)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some kB that is `width` × `height` pixels of white when opened."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(b"\0" + b"\xff" * (width // 8)) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def png_with(name: bytes, payload: bytes, count: int = 1) -> bytes:
    """A PNG of 8 × 8 black pixels with `count` further chunks of that name."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 9 * 8)
    extra = _chunk(name, payload) * count
    end = _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + extra + end


def png_header(width: int, height: int, depth: int = 8, colour: int = 6) -> bytes:
    """What a PNG of that size begins with. `colour`: 6 is RGBA, 4 grey with alpha, 3 by palette."""
    return b"\x89PNG\r\n\x1a\n" + _chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    )


def png_bomb(width: int, height: int, depth: int = 8, colour: int = 6) -> bytes:
    """A whole PNG of that size and kind, all zeros: a hundredth of its pixels' bytes."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row, packed = b"\0" * (1 + width * samples * depth // 8), zlib.compressobj(1)
    data = b"".join(packed.compress(row) for _ in range(height)) + packed.flush()
    palette = _chunk(b"PLTE", b"\1\2\3" * 256) + _chunk(b"tRNS", b"\0\7") if colour == 3 else b""
    return png_header(width, height, depth, colour) + palette + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def webp_header(width: int, height: int) -> bytes:
    """34 bytes that a decoder takes for a lossless WebP of that size."""
    bits = struct.pack("<BI", 0x2F, (width - 1) | (height - 1) << 14)
    payload = b"VP8L" + struct.pack("<I", 14) + bits + b"\x88\x88\x08\0\0\0\0\0\0"
    return b"RIFF" + struct.pack("<I", 4 + len(payload)) + b"WEBP" + payload


def gif_header(screen: tuple[int, int], frame: tuple[int, int, int, int], before: bytes = b"") -> bytes:
    """A GIF of one frame (left, top, width, height), which may be larger than its screen."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return head + before + b"\x2c" + struct.pack("<HHHHB", *frame, 0) + b"\2\2\x4c\1\0;"


def jpeg_header(
    width: int, height: int, frame: int = 0xC0, first: int = 3, scans: int = 1, between: bytes = b""
) -> bytes:
    """A JPEG without coded data: `frame`, its marker (0xC2: progressive), `first`: colours of each scan."""
    colours = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    sof = struct.pack(">BHHB", 8, height, width, 3) + colours
    sos = bytes([first]) + bytes(2 * first) + b"\0\x3f\0"
    scan = segment(0xDA, sos) + b"\0" * 8
    return b"\xff\xd8" + segment(frame, sof) + (scan + between) * scans + b"\xff\xd9"


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 200
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'
