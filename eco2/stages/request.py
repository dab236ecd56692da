"""What a client sends for a scan: a photo (URL or upload) and a question."""

import json
from collections.abc import Mapping

from pydantic import BaseModel, Field

from eco2.pipeline import Form, InvalidInput
from eco2.stages import image_url, photo

DEFAULT_QUESTION = "이 물건은 어떻게 분리배출하나요?"
MAX_QUESTION = 2000


class ScanInput(BaseModel):
    """`image_url`: an http(s) URL, or a `data:` URL of a JPEG that `photo` made."""

    image_url: str = Field(
        description="A picture on the public web (`https://...`), or itself: `data:image/...;base64,...`.",
        json_schema_extra={"format": "image-url"},
    )
    user_input: str = Field(
        default=DEFAULT_QUESTION,
        max_length=MAX_QUESTION,
        json_schema_extra={"type": ["string", "null"], "pattern": r"^[^\x00]*$"},
    )


def question_line(question: str) -> str:
    """The question as it stands in every prompt: one quoted line, which cannot pass for anything else."""
    return f"Question: {json.dumps(question, ensure_ascii=False)}"


def check_local(request: ScanInput) -> None:
    """Raises `InvalidInput` for a picture that would have to be fetched: the local model fetches nothing."""
    if not request.image_url.startswith("data:"):
        raise InvalidInput(
            "the model here opens no web addresses: upload the photo (form field `image`), or send it as a "
            "data: URL",
            "IMAGE_URL_UNSUPPORTED",
        )


async def parse(form: Form) -> ScanInput:
    """The input of a request: field `image_url` or file `image`, and optionally `user_input`.

    Raises `InvalidInput` with the code that clients see.
    """
    question = _text(form.fields, "user_input") or DEFAULT_QUESTION
    if len(question) > MAX_QUESTION:
        raise InvalidInput(f"user_input is longer than {MAX_QUESTION} characters: shorten it")
    upload = form.files.get("image")
    if upload is not None and _text(form.fields, "image_url"):
        raise InvalidInput("send a file image or image_url, not both")
    if upload is not None:
        return ScanInput(image_url=await photo.normalise(upload.data), user_input=question)
    return ScanInput(
        image_url=await _image(_text(form.fields, "image_url"), form.image_urls), user_input=question
    )


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidInput(f"{name} must be a string")
    if "\0" in value:
        raise InvalidInput(f"{name} has a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{name} is not valid Unicode text") from error
    return value.strip()


async def _image(url: str, passed_on: bool) -> str:
    """A URL to pass on, or the normalised picture of a `data:` URL."""
    scheme = url.partition(":")[0].lower()
    if not url:
        raise InvalidInput("send image_url, or a file named image", "IMAGE_URL_REQUIRED", 400)
    if scheme == "data":
        return await photo.normalise_url(url)
    if not passed_on:
        raise InvalidInput("picture URLs are turned off here: upload the picture, or send it as a data: URL")
    return image_url.check(url)
