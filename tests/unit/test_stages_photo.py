"""Photos as they come: made small, upright and anonymous, or refused with the documented code."""

import base64
import io
import random
import threading

import pytest
from PIL import Image

from eco2.pipeline import InvalidInput
from eco2.stages import photo
from eco2.stages.photo import MAX_BYTES, MAX_JPEG_BYTES, SIDE, from_data_url, normalise, to_jpeg
from tests import pictures


def encoded(image: Image.Image, kind: str = "PNG", exif: Image.Exif | None = None) -> bytes:
    file = io.BytesIO()
    if exif is None:
        image.save(file, kind)
    else:
        image.save(file, kind, exif=exif)
    return file.getvalue()


def opened(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg))
    assert image.format == "JPEG"
    return image


def noise(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), random.Random(5).randbytes(width * height * 3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_kind_becomes_a_small_jpeg(kind: str) -> None:
    jpeg = opened(to_jpeg(encoded(Image.new("RGB", (2000, 1000), "teal"), kind)))
    assert (jpeg.size, jpeg.mode) == ((512, 256), "RGB")


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16", "I", "F"])
def test_every_mode_of_colour_is_read(mode: str) -> None:
    image = Image.new(mode, (64, 64))
    kind = "TIFF" if mode in ("CMYK", "F", "I") else "PNG"
    assert opened(to_jpeg(encoded(image, kind))).mode == "RGB"


def test_16_bits_keep_their_brightness() -> None:
    image = Image.new("I;16", (64, 64), 0x8000)
    assert opened(to_jpeg(encoded(image))).getpixel((10, 10)) == (128, 128, 128)


def test_a_small_picture_is_not_blown_up() -> None:
    assert opened(to_jpeg(encoded(Image.new("RGB", (40, 30))))).size == (40, 30)


def test_even_noise_fits() -> None:
    jpeg = to_jpeg(encoded(noise(900, 900)))
    assert len(jpeg) <= MAX_JPEG_BYTES
    assert max(opened(jpeg).size) <= SIDE


def test_the_rotation_is_applied_and_the_metadata_gone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # lay on its side
    exif[0x010F] = "a camera that tells who owns it"
    jpeg = to_jpeg(encoded(Image.new("RGB", (300, 100)), "JPEG", exif))
    assert opened(jpeg).size == (100, 300)
    assert dict(opened(jpeg).getexif()) == {}
    assert b"camera" not in jpeg


def test_transparent_is_white() -> None:
    assert opened(to_jpeg(encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0))))).getpixel((4, 4)) == (255,) * 3


def test_an_animation_shows_its_first_picture() -> None:
    file = io.BytesIO()
    frames = [Image.new("RGB", (50, 50), colour) for colour in ("white", "black")]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert opened(to_jpeg(file.getvalue())).getpixel((25, 25)) == (255, 255, 255)


def test_a_bomb_is_refused_undecoded() -> None:
    with pytest.raises(InvalidInput) as refused:
        to_jpeg(encoded(Image.new("1", (10_000, 10_000))))
    assert (refused.value.code, refused.value.status) == ("IMAGE_TOO_LARGE", 413)


def test_a_truncated_photo_is_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        to_jpeg(encoded(noise(200, 200), "JPEG")[:9000])
    assert (refused.value.code, refused.value.status) == ("UNSUPPORTED_IMAGE", 415)


@pytest.mark.parametrize("data", [b"", b"not a picture", b"%PDF-1.7 ", b"<svg xmlns='x'/>", b"\xff\xd8\xff"])
def test_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        to_jpeg(data)
    assert (refused.value.code, refused.value.status) == ("UNSUPPORTED_IMAGE", 415)


async def test_too_many_bytes_are_refused_undecoded() -> None:
    with pytest.raises(InvalidInput) as refused:
        await normalise(b"\0" * (MAX_BYTES + 1))
    assert refused.value.status == 413


async def test_the_work_is_done_on_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def note(data: bytes) -> bytes:
        threads.append(threading.get_ident())
        return data

    monkeypatch.setattr(photo, "to_jpeg", note)
    assert await normalise(b"x") == "data:image/jpeg;base64,eA=="
    assert threads != [threading.get_ident()]


def test_a_data_url_gives_its_bytes() -> None:
    assert from_data_url("data:image/png;base64," + base64.b64encode(b"abc").decode()) == b"abc"


@pytest.mark.parametrize("url", ["data:text/html;base64,eA==", "data:image/png,x", "data:image/png;base64,?"])
def test_other_data_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        from_data_url(url)
    assert refused.value.code == "UNSUPPORTED_IMAGE"


def test_a_huge_data_url_is_refused_undecoded() -> None:
    with pytest.raises(InvalidInput) as refused:
        from_data_url("data:image/png;base64," + "A" * (MAX_BYTES * 4 // 3 + 8))
    assert refused.value.code == "IMAGE_TOO_LARGE"


@pytest.mark.filterwarnings("ignore::UserWarning")  # readers also complain
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_whatever_a_file_is_damaged_by_it_is_read_or_refused(kind: str) -> None:
    good, dice, outcomes = pictures.noise(kind, 40), random.Random(7), set()
    for _ in range(150):
        damaged = bytearray(good)
        for _ in range(dice.choice([1, 4, 30])):
            damaged[dice.randrange(min(len(damaged), dice.choice([64, 4000])))] = dice.randrange(256)
        del damaged[dice.choice([len(good), dice.randrange(len(good))]) :]
        try:
            outcomes.add(opened(to_jpeg(bytes(damaged))).mode)
        except InvalidInput as refused:
            outcomes.add(refused.code)
    assert outcomes <= {"RGB", "UNSUPPORTED_IMAGE", "IMAGE_TOO_LARGE"}
    assert "UNSUPPORTED_IMAGE" in outcomes


@pytest.mark.parametrize("data", [pictures.cmyk(), pictures.palette_with_holes()], ids=["CMYK", "palette"])
def test_colours_stay(data: bytes) -> None:
    red, green, blue = opened(to_jpeg(data)).getpixel((30, 30))  # type: ignore[misc]
    assert red > 200 > 60 > max(green, blue)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_every_animation_the_first_picture_counts(kind: str) -> None:
    red, _, blue = opened(to_jpeg(pictures.animated(kind))).getpixel((30, 30))  # type: ignore[misc]
    assert red > 200 > 60 > blue


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_rotation_is_applied_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert opened(to_jpeg(encoded(Image.new("RGB", (900, 300)), kind, exif))).size == (171, 512)


def test_transparent_edges_of_large_pictures_do_not_darken() -> None:
    image = Image.new("RGBA", (2048, 2048), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 1027, 2048))
    darkest, _ = opened(to_jpeg(encoded(image))).convert("L").getextrema()
    assert int(darkest) > 240  # type: ignore[arg-type]
