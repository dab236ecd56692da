"""Pictures made small: upright and anonymous whatever they came as, or refused with the documented code."""

import io
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
from PIL import Image, PngImagePlugin

from eco2.errors import InvalidInput
from eco2.thumbnail import to_jpeg
from tests.support import pictures


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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_kind_becomes_a_small_jpeg(kind: str) -> None:
    jpeg = opened(to_jpeg(encoded(Image.new("RGB", (2000, 1000), "teal"), kind)))
    assert (jpeg.size, jpeg.mode) == ((512, 256), "RGB")


@pytest.mark.parametrize("side", [64, 3000])
@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_mode_of_colour_is_read_whatever_its_size(mode: str, side: int) -> None:
    data = encoded(Image.new(mode, (side, side)), "JPEG" if mode == "CMYK" else "PNG")
    assert opened(to_jpeg(data)).mode == "RGB"


def test_16_bits_keep_their_brightness() -> None:
    image = Image.new("I;16", (64, 64), 0x8000)
    assert opened(to_jpeg(encoded(image))).getpixel((10, 10)) == (128, 128, 128)


def test_a_small_picture_is_not_blown_up() -> None:
    assert opened(to_jpeg(encoded(Image.new("RGB", (40, 30))))).size == (40, 30)


def test_even_noise_fits() -> None:
    jpeg = to_jpeg(encoded(noise(900, 900)))
    assert len(jpeg) <= 64_000
    assert max(opened(jpeg).size) <= 512


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


@pytest.mark.parametrize(
    "data", [b"", b"not a picture", b"%PDF-1.7 ", pictures.SVG, pictures.HEIC, b"\xff\xd8\xff"]
)
def test_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        to_jpeg(data)
    assert (refused.value.code, refused.value.status) == ("UNSUPPORTED_IMAGE", 415)


@pytest.mark.filterwarnings("ignore::UserWarning")  # readers also complain
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
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


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_rotation_is_applied_in_every_format(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert opened(to_jpeg(encoded(Image.new("RGB", (900, 300)), kind, exif))).size == (171, 512)


def test_transparent_edges_of_large_pictures_do_not_darken() -> None:
    image = Image.new("RGBA", (2048, 2048), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 1027, 2048))
    darkest, _ = opened(to_jpeg(encoded(image))).convert("L").getextrema()
    assert int(darkest) > 240  # type: ignore[arg-type]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_undone_as_a_viewer_does(orientation: int) -> None:
    image = Image.new("RGB", (400, 200), "white")
    image.paste("black", (0, 0, 100, 100))
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # how a camera lay
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = image if turned is None else image.transpose(Image.Transpose(turned))
    small = opened(to_jpeg(encoded(stored, "PNG", exif)))
    assert small.size == image.size
    assert small.convert("L").getpixel((50, 50)) == 0


def test_a_png_is_read_whatever_metadata_it_carries() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "a" * 3_000_000, zip=True)
    info.add_itxt("XML:com.adobe.xmp", "b" * 3_000_000, zip=True)
    profile = random.Random(3).randbytes(2_000_000)
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "PNG", pnginfo=info, icc_profile=profile)
    assert opened(to_jpeg(file.getvalue())).size == (64, 64)


def test_a_picture_for_prints_in_several_parts_is_read_as_its_first() -> None:
    file = io.BytesIO()
    first, second = (Image.new("RGB", (60, 40), colour) for colour in ("white", "black"))
    first.save(file, "MPO", save_all=True, append_images=[second])
    assert opened(to_jpeg(file.getvalue())).getpixel((30, 20)) == (255, 255, 255)


def test_a_film_behind_a_photo_is_no_part_of_it() -> None:
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x08" * 5000
    assert opened(to_jpeg(pictures.plain() + film)).size == (64, 64)


def test_the_colours_of_a_jpeg_survive_without_its_metadata() -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    image = Image.new("RGB", (64, 64), pictures.RED)
    for options in ({"keep_rgb": True}, {"progressive": True}, {"exif": exif, "comment": b"c" * 60_000}):
        red, _, blue = opened(to_jpeg(pictures.encoded(image, "JPEG", **options))).getpixel((9, 9))  # type: ignore[misc]
        assert red > 200 > 60 > blue


def test_a_tag_of_a_million_numbers_costs_nothing() -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 5, 1_000_000, 26)
    data = pictures.png_with(b"eXIf", exif[6:] + b"\1\0\0\0" * 2_000_000)
    began = time.thread_time()
    assert opened(to_jpeg(data)).size == (8, 8)
    assert time.thread_time() - began < 0.5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_no_words_of_a_library_reach_the_client(kind: str) -> None:
    data = pictures.noise(kind, 100)
    for damaged in (data[: len(data) // 2], data[:40] + b"\0" * 400, data[:12]):
        with pytest.raises(InvalidInput) as refused:
            to_jpeg(damaged)
        assert refused.value.status == 415
        assert kind in str(refused.value).upper()
        assert "<" not in str(refused.value)


LARGEST: dict[str, Callable[[], bytes]] = {
    "WebP": lambda: pictures.noise_webp(4096, 3072),
    "PNG by palette": lambda: pictures.png_bomb(4096, 3072, colour=3),
    "PNG of 16 bits": lambda: pictures.png_bomb(4096, 3072, depth=16),
    "progressive JPEG": lambda: pictures.encoded(
        Image.new("RGB", (4096, 3072), "teal"), "JPEG", progressive=True, subsampling=0
    ),
    "a phone's JPEG": pictures.phone_photo,
    "a narrow JPEG": lambda: pictures.encoded(Image.new("CMYK", (16_384, 1023)), "JPEG"),
}


@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_of_each_kind_is_read_within_the_limits_of_its_process(name: str) -> None:
    code = (
        "import sys; from eco2.picturefile import format_of; from eco2.thumbnail import confined\n"
        "data = sys.stdin.buffer.read(); sys.stdout.buffer.write(confined(data, format_of(data)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=LARGEST[name](), capture_output=True, check=False
    )
    assert max(opened(done.stdout).size) == 512, done.stderr
