"""Sizes and tokens of pictures: the guide's examples, and agreement with the fake provider's own reading."""

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eco2.fake.image import pixels
from eco2.fake.models import family
from eco2.tokens.images import UNKNOWN, image_tokens, size_of

MODELS = (
    "gpt-4o",
    "gpt-4o-mini-2024-07-18",
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4.1-nano",
    "gpt-5",
    "gpt-5.1-2025-11-13",
    "gpt-5-mini",
    "gpt-5-nano",
    "unheard-of",
)


@pytest.mark.parametrize(
    ("model", "size", "tokens"),
    [
        ("gpt-4o", (4096, 8192), 85),  # the guide's example
        ("gpt-4o-mini", (16, 16), 2833),
        ("gpt-5.1", (3000, 10), 70),
        ("o4-mini", (32, 33), 4),
        ("gpt-5-mini", (512, 512), 415),
        ("gpt-5-mini", (1024, 1024), 415),
    ],
)
def test_pictures_weigh_what_the_guide_says(model: str, size: tuple[int, int], tokens: int) -> None:
    assert image_tokens(model, size) == tokens


@pytest.mark.parametrize("model", MODELS)
@given(st.integers(1, 6000), st.integers(1, 6000))
def test_formula_and_fake_provider_agree(model: str, width: int, height: int) -> None:
    assert image_tokens(model, (width, height)) == family(model).image_tokens(width, height, True)


@pytest.mark.parametrize("model", MODELS)
@given(st.integers(1, 6000), st.integers(1, 6000))
def test_a_picture_of_unknown_size_weighs_as_much_as_low_detail_ever_does(
    model: str, width: int, height: int
) -> None:
    assert image_tokens(model, None) == image_tokens(model, UNKNOWN) >= image_tokens(model, (width, height))


@pytest.mark.parametrize("size", [(1, 1), (1, 60_000), (60_000, 1), (100_000, 100_000)])
def test_the_oddest_picture_weighs_something(size: tuple[int, int]) -> None:
    assert all(image_tokens(model, size) >= 1 for model in MODELS)


def url_of(data: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def written(size: tuple[int, int], kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "green").save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"x" * 60_000}),  # the size stands far behind
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM"}),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (513, 300), (300, 1025)])
def test_the_size_stands_in_the_head_of_the_file(
    kind: str, options: dict[str, object], size: tuple[int, int]
) -> None:
    data = written(size, kind, **options)
    assert size_of(url_of(data, kind.lower())) == size == pixels(data)


def test_padding_before_a_marker_is_passed_over() -> None:
    data = written((20, 30), "JPEG")
    assert size_of(url_of(data[:2] + b"\xff\xff" + data[2:])) == (20, 30)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/can.jpg",
        "http://example.org/;base64,AAAA",
        "data:text/plain;base64,AAAA",
        "data:image/jpeg;base64,",
        "data:image/jpeg;base64,A",
        "data:image/jpeg;base64,이거",
        "data:image/jpeg,AAAA",
        "",
        url_of(b"\xff\xd8\xff\xc0"),
        url_of(b"\xff\xd8"),
        url_of(b"\xff\xd8\0"),
        url_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "png"),
        url_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(8), "png"),  # of no width
        url_of(b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        url_of(b"RIFF\0\0\0\0WEBPVP9 " + bytes(20), "webp"),
        url_of(b"hello"),
    ],
)
def test_what_shows_no_size_has_none(url: str) -> None:
    assert size_of(url) is None


@given(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\xff\xd8", b"RIFF0000WEBPVP8X", b"\x89PNG\r\n\x1a\n", b"GIF89a"]),
)
def test_no_bytes_are_too_strange(rest: bytes, magic: bytes) -> None:
    size = size_of(url_of(magic + rest))
    assert size is None or min(size) > 0
