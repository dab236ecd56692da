"""Requests for a scan: what is accepted, and the documented error for the rest."""

import base64
import unicodedata
from importlib.resources import files

import pytest

from eco2.pipeline import Form, InvalidInput, Upload
from eco2.stages.language import language_of
from eco2.stages.request import DEFAULT_QUESTION, MAX_QUESTION, parse

CUP = files("eco2.stages").joinpath("data", "demo.jpg").read_bytes()


async def test_an_upload_becomes_a_small_data_url() -> None:
    form = Form({"user_input": "무엇?"}, {"image": Upload("cup.jpg", "image/jpeg", CUP)})
    request = await parse(form)
    assert request.image_url.startswith("data:image/jpeg;base64,")
    assert len(request.image_url) < 64_000 * 4 / 3 + 50
    assert request.user_input == "무엇?"


async def test_a_data_url_is_made_small_too() -> None:
    url = "data:image/jpeg;base64," + base64.b64encode(CUP).decode()
    assert len((await parse(Form({"image_url": url}))).image_url) < len(url)


async def test_a_url_is_passed_on_and_the_question_has_a_default() -> None:
    request = await parse(Form({"image_url": " https://example.org/a.jpg ", "user_input": "  "}))
    assert (request.image_url, request.user_input) == ("https://example.org/a.jpg", DEFAULT_QUESTION)


async def test_a_question_in_another_form_of_unicode_is_the_same_question() -> None:
    typed = "어떻게 버려요? " * 200
    decomposed = unicodedata.normalize("NFD", typed)
    assert len(decomposed) > MAX_QUESTION
    request = await parse(Form({"image_url": "https://example.org/a.jpg", "user_input": decomposed}))
    assert request.user_input == typed.strip()
    assert language_of(request.user_input) == "ko"


@pytest.mark.parametrize("fields", [{}, {"image_url": ""}, {"image_url": "  "}, {"image_url": None}])
async def test_a_request_without_a_picture_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await parse(Form(fields))
    assert (refused.value.code, refused.value.status) == ("IMAGE_URL_REQUIRED", 400)


@pytest.mark.parametrize(
    "fields",
    [
        {"image_url": 5},
        {"image_url": "file:///etc/passwd"},
        {"image_url": "ftp://example.org/a.jpg"},
        {"image_url": "https:no-host"},
        {"image_url": "a.jpg"},
        {"image_url": "https://example.org/" + "a" * 2000},
        {"image_url": "https://example.org/a.jpg", "user_input": ["a"]},
        {"image_url": "https://example.org/a.jpg", "user_input": "a" * 2001},
        {"image_url": "https://example.org/a.jpg", "user_input": "\ud800"},
        {"image_url": "https://example.org/\udfff"},
    ],
)
async def test_a_wrong_request_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInput) as refused:
        await parse(Form(fields))
    assert (refused.value.code, refused.value.status) == ("INVALID_REQUEST", 422)


async def test_urls_that_the_operator_turned_off_are_refused_and_pictures_are_not() -> None:
    with pytest.raises(InvalidInput, match="upload the picture"):
        await parse(Form({"image_url": "https://example.org/a.jpg"}, image_urls=False))
    url = "data:image/jpeg;base64," + base64.b64encode(CUP).decode()
    assert (await parse(Form({"image_url": url}, image_urls=False))).image_url.startswith("data:image/jpeg")
