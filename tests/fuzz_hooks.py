"""What schemathesis cannot know by itself: what our formats look like. `tests.fuzz` hands this to it."""

import base64
import hashlib
import io
import json
from typing import Any

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def _picture(kind: str, colour: tuple[int, int, int], side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(file, kind)
    return file.getvalue()


_BYTE = st.integers(0, 255)
PICTURES = st.builds(
    _picture,
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]),
    st.tuples(_BYTE, _BYTE, _BYTE),
    st.integers(1, 40),
)
DATA_URLS = PICTURES.map(lambda data: "data:image/png;base64," + base64.b64encode(data).decode())
_PATHS = st.text("abcXYZ019-._~/?=&%20é사진", max_size=60)
WEB_URLS = st.builds("{}://{}/{}".format, st.sampled_from(["http", "https"]), st.just("example.org"), _PATHS)

schemathesis.openapi.format("image-url", st.one_of(WEB_URLS, DATA_URLS))
schemathesis.openapi.media_type("image/*", PICTURES)


@schemathesis.hook
def before_call(_: object, case: Any, __: object) -> None:
    """Makes two things true that no schema of a header can say.

    A key belongs to one body: another with it is a mismatch. And only a batch job may wait for as long as the
    schema of `Job-Max-Wait` says.
    """
    body = hashlib.sha256(repr((case.media_type, case.body)).encode(errors="replace")).hexdigest()[:16]
    for name in ("Idempotency-Key", "X-Idempotency-Key"):
        key = (case.headers or {}).get(name)
        if isinstance(key, str) and 0 < len(key) < 200:
            case.headers[name] = key + body
    negative = case.meta and case.meta.generation.mode.is_negative
    if "Job-Max-Wait" in (case.headers or {}) and not negative:
        case.headers["Job-Priority"] = "batch"


@schemathesis.hook
def filter_case(_: object, case: Any) -> bool:
    """Leaves out what is not refused by the status of the answer.

    Forms whose question is no text: sent as a form it is text, or nothing, and so is valid. Wrong lines of
    batches: each has its status in its own answer.
    """
    if case.media_type == "application/x-ndjson" and case.meta and case.meta.generation.mode.is_negative:
        return False
    question = case.body.get("user_input", "") if isinstance(case.body, dict) else ""
    return case.media_type != "multipart/form-data" or isinstance(question, str)


@schemathesis.serializer("application/x-ndjson")
def one_line(_: object, value: Any) -> bytes:
    """A batch of one line."""
    return json.dumps(value).encode() + b"\n"


@schemathesis.deserializer("application/x-ndjson")
def first_line(_: object, response: Any) -> Any:
    """The answer to that line; the schema is of one."""
    return json.loads(response.content.splitlines()[0])
