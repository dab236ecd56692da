"""The request for a scan: a photo (URL or upload) and a question."""

import json
import unicodedata
from collections.abc import Mapping

from pydantic import BaseModel, Field

from eco2.pipeline import Form, InvalidInput
from eco2.stages import image_url, photo

DEFAULT_QUESTION = "이 물건은 어떻게 분리배출하나요?"
MAX_QUESTION = 2000


class ScanInput(BaseModel):
    """The input of a scan. `image_url`: an http(s) URL, or a `data:` URL of a JPEG that `photo` made."""

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
    """Quotes the question for a prompt: one line of JSON, which cannot be mistaken for instructions."""
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
    """Builds the input from field `image_url` or file `image`, and optionally `user_input`.

    Raises `InvalidInput` with the code that clients see.
    """
    question = unicodedata.normalize("NFC", text_field(form.fields, "user_input")) or DEFAULT_QUESTION
    if len(question) > MAX_QUESTION:
        raise InvalidInput(f"user_input is longer than {MAX_QUESTION} characters: shorten it")
    upload, url = form.files.get("image"), text_field(form.fields, "image_url")
    if upload is not None and url:
        raise InvalidInput("send a file image or image_url, not both")
    if upload is not None:
        url = await photo.normalise(upload.data)
    elif not url:
        raise InvalidInput("send image_url, or a file named image", "IMAGE_URL_REQUIRED", 400)
    elif url.partition(":")[0].lower() == "data":
        url = await photo.normalise_url(url)
    elif not form.image_urls:
        raise InvalidInput("picture URLs are turned off here: upload the picture, or send it as a data: URL")
    else:
        image_url.check(url)
    return ScanInput(image_url=url, user_input=question)


def text_field(fields: Mapping[str, object], name: str) -> str:
    """Returns the field without surrounding blanks, "" if it is missing. Raises `InvalidInput`."""
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
