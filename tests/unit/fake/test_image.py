"""Image parts: sizes are read from the header, anything else is refused."""

import base64
import io

import pytest
from PIL import Image

from eco2.fake.api_error import ApiError
from eco2.fake.image import REMOTE_SIZE, size_of


def data_url(encoding: str, **options: object) -> str:
    buffer = io.BytesIO()
    Image.effect_noise((301, 203), 40).convert("RGB").save(buffer, encoding, **options)
    return f"data:image/{encoding.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.mark.parametrize(
    ("encoding", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"icc_profile": b"x" * 60_000}),  # the size stands behind the profile
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ],
)
def test_the_size_of_every_format_is_read(encoding: str, options: dict[str, object]) -> None:
    assert size_of(data_url(encoding, **options), "url") == (301, 203)


def test_a_remote_image_is_not_fetched() -> None:
    assert size_of("https://images.invalid/a.jpg", "url") == REMOTE_SIZE


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://a/b.jpg", "invalid_image_url"),
        ("https://", "invalid_image_url"),
        ("photo.jpg", "invalid_image_url"),
        ("data:text/plain;base64,AAAA", "invalid_image_format"),
        ("data:image/jpeg,AAAA", "invalid_image_format"),
        ("data:image/jpeg;base64,AAA", "invalid_base64"),
        ("data:image/jpeg;base64,A*AA", "invalid_base64"),
        ("data:image/jpeg;base64,AAAA", "invalid_image"),
        ("data:image/jpeg;base64,", "invalid_image"),
        (data_url("PNG")[: len("data:image/png;base64,") + 16], "invalid_image"),
    ],
)
def test_what_is_no_image_is_refused(url: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        size_of(url, "messages[0]")
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, "messages[0]")
