"""Files of pictures: what is taken by format and size alone, and what is dropped before a decoder sees it."""

import struct

import pytest
from PIL import Image

from eco2.errors import InvalidInput
from eco2.picturefile import format_of, read
from tests.support import pictures

SIDES = {"JPEG": (4096, 3072), "PNG": (4096, 3072), "WEBP": (4096, 3072), "GIF": (4096, 3072)}


def refusal(data: bytes) -> tuple[str, int, str]:
    with pytest.raises(InvalidInput) as refused:
        read(data)
    return refused.value.code, refused.value.status, str(refused.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_the_size_is_read_from_the_header(kind: str) -> None:
    file = read(pictures.encoded(Image.new("RGB", (300, 200)), kind))
    assert (file.format, file.width, file.height) == (kind, 300, 200)
    assert file.baseline == (kind == "JPEG")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty (0 bytes): send a JPEG, PNG, WebP or GIF"),
        (b"hello", "send a JPEG, PNG, WebP or GIF"),
        (b"%PDF-1.7", "send a JPEG, PNG, WebP or GIF"),
        (pictures.SVG, "send a JPEG, PNG, WebP or GIF"),
        (b"BM" + b"\0" * 60, "send a JPEG, PNG, WebP or GIF"),
        (b"II*\0" + b"\0" * 60, "send a JPEG, PNG, WebP or GIF"),
        (pictures.HEIC, "send the picture as a JPEG"),
        (pictures.HEIC.replace(b"heic", b"avif"), "send the picture as a JPEG"),
    ],
)
def test_what_is_not_taken_is_told_what_is(data: bytes, words: str) -> None:
    code, status, message = refusal(data)
    assert (code, status) == ("UNSUPPORTED_IMAGE", 415)
    assert words in message


def test_ten_megabytes_are_the_most() -> None:
    assert format_of(b"\xff\xd8\xff" + b"\0" * 9_999_997) == "JPEG"
    assert refusal(b"\xff\xd8\xff" + b"\0" * 9_999_998)[:2] == ("IMAGE_TOO_LARGE", 413)


@pytest.mark.parametrize(
    ("data", "taken"),
    [
        (pictures.png_header(4096, 3072), True),
        (pictures.png_header(49_999_999, 1), False),
        (pictures.png_header(16_385, 1), False),
        (pictures.png_header(4097, 3100), False),
        (pictures.webp_header(4096, 3072), True),
        (pictures.webp_header(16_383, 3050), False),
        (pictures.gif_header((10, 10), (0, 0, 10, 10)), True),
        (pictures.gif_header((10, 10), (0, 0, 16_000, 16_000)), False),
        (pictures.gif_header((10, 10), (16_380, 0, 10, 10)), False),
        (pictures.gif_header((16_000, 16_000), (0, 0, 1, 1)), False),
        (pictures.jpeg_header(8160, 6144), True),
        (pictures.jpeg_header(8160, 6300), False),
        (pictures.jpeg_header(16_385, 8), False),
        (pictures.jpeg_header(8160, 6144, frame=0xC2), False),
        (pictures.jpeg_header(4096, 3072, frame=0xC2), True),
        (pictures.jpeg_header(8160, 6144, first=1), False),
        (pictures.jpeg_header(8160, 6144, scans=2), False),
        (pictures.jpeg_header(4096, 3072, frame=0xC2, scans=64), True),
    ],
)
def test_the_size_that_is_taken_depends_on_how_it_is_decoded(data: bytes, taken: bool) -> None:
    if taken:
        assert read(data).width
    else:
        assert refusal(data)[:2] == ("IMAGE_TOO_LARGE", 413)


def test_a_jpeg_of_many_scans_is_refused_wherever_they_stand() -> None:
    many = pictures.jpeg_header(64, 64, frame=0xC2, scans=65)
    assert refusal(many)[:2] == ("UNSUPPORTED_IMAGE", 415)
    padded = pictures.jpeg_header(64, 64, frame=0xC2, scans=65, between=b"\xff\xe1\0\4\xff\xd9\xff\xff\xff")
    assert refusal(padded)[:2] == ("UNSUPPORTED_IMAGE", 415)


def test_scans_are_not_counted_in_what_only_looks_like_them() -> None:
    thumbnail = b"\xff\xed" + struct.pack(">H", 60_002) + b"\xff\xda" * 30_000
    data = pictures.plain()
    assert read(data[:2] + thumbnail + data[2:]).data == read(data).data


@pytest.mark.parametrize(
    "data",
    [
        pictures.plain()[:2] + b"\xff\xe2\0\2" * 1_600_000 + pictures.plain()[2:],
        pictures.plain()[:2] + b"\xff\xfe\0\2" * 1_600_000 + pictures.plain()[2:],
        pictures.plain()[:2] + b"\xff" * 1_000_000,
        pictures.png_with(b"tEXt", b"", 500_000),
        pictures.gif_header((8, 8), (0, 0, 8, 8), b"\x21\xfe" + b"\1x" * 3_000_000 + b"\0"),
    ],
    ids=["APP2", "comments", "fill bytes", "chunks", "blocks"],
)
def test_a_million_parts_are_refused_early(data: bytes) -> None:
    assert refusal(data)[:2] == ("UNSUPPORTED_IMAGE", 415)


def test_metadata_is_dropped() -> None:
    data = pictures.plain()
    noted = b"\xff\xe2\0\x0cICC_PROFIL" * 200 + b"\xff\xfe\0\4hi"
    assert read(data[:2] + noted + data[2:]).data == read(data).data
    assert (
        read(pictures.png_with(b"zTXt", b"x" * 100_000, 50)).data == read(pictures.png_with(b"", b"", 0)).data
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_header_that_is_cut_short_is_refused_at_every_length(kind: str) -> None:
    data = pictures.plain(kind)
    for length in range(12, min(len(data), 120)):
        outcome: object = None
        try:
            outcome = read(data[:length]).format
        except InvalidInput as refused:
            outcome = refused.status
        assert outcome in (kind, 415)
