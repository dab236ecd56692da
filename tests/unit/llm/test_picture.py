"""Pictures for the local model: guarded before they are decoded."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from eco2.errors import ProviderRefused
from eco2.llm.picture import MAX_BYTES, image_bytes, views


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def test_a_data_url_gives_its_bytes() -> None:
    assert image_bytes("data:image/png;base64," + base64.b64encode(b"x").decode()) == b"x"


@pytest.mark.parametrize("url", ["data:image/png,plain", "data:image/png;base64,???", "data:"])
def test_a_broken_data_url_is_refused(url: str) -> None:
    with pytest.raises(ProviderRefused) as refused:
        image_bytes(url)
    assert refused.value.code == "UNSUPPORTED_IMAGE"


def test_too_many_bytes_are_refused_undecoded() -> None:
    with pytest.raises(ProviderRefused) as refused:
        image_bytes("data:image/png;base64," + "A" * (MAX_BYTES * 4 // 3 + 8))
    assert refused.value.code == "IMAGE_TOO_LARGE"


def test_too_many_pixels_are_refused_undecoded() -> None:
    bomb = encoded(Image.new("1", (8000, 8000)))
    with pytest.raises(ProviderRefused) as refused:
        views(bomb, 224)
    assert refused.value.code == "IMAGE_TOO_LARGE"


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ProviderRefused) as refused:
        views(b"GIF89a, but no more", 224)
    assert refused.value.code == "UNSUPPORTED_IMAGE"


def test_two_views_in_the_range_the_network_knows() -> None:
    array = views(encoded(Image.new("RGB", (640, 480), (127, 255, 0)), "JPEG"), 224)
    assert array.shape == (2, 3, 224, 224)
    assert np.abs(array[0, :, 100, 100] - [0, 1, -0.99]).max() < 0.03


def test_the_second_view_shows_all_of_a_wide_picture_on_white() -> None:
    centre, whole = views(encoded(Image.new("RGB", (400, 200), "black")), 224)
    assert centre.max() < -0.98
    assert whole[:, 0, 0].tolist() == [1, 1, 1]
    assert whole[:, 112, 0].max() < -0.98


def test_transparent_is_white() -> None:
    array = views(encoded(Image.new("RGBA", (224, 224), (0, 0, 0, 0))), 224)
    assert array.min() == 1
