"""A request's body as a `Form`, read under a limit: a body that is too large is never held whole.

Files stay in memory (the limit bounds them), so that the process needs no writable disk.
"""

import hashlib
import json
from collections.abc import AsyncGenerator

import msgspec
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eco2.errors import InvalidInput
from eco2.job import JSON
from eco2.pipeline import Form, Upload

MOST_PARTS = 20
"""Fields, and files, of one multipart form."""

_object: msgspec.json.Decoder[JSON] = msgspec.json.Decoder(JSON)


async def read_form(request: Request, limit: int) -> Form:
    """The body's fields and files. `InvalidInput`: 413 above `limit` bytes, 422 for what is no form."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart(request, limit)
    if kind == "application/json":
        return Form(_json(b"".join([chunk async for chunk in _limited(request, limit)])))
    raise InvalidInput(f"send application/json or multipart/form-data, not {kind}")


def digest(pipeline: str, form: Form) -> str:
    """SHA-256 (hex) of what the client sent: equal for equal fields and files, in whatever order."""
    files = {name: hashlib.sha256(upload.data).hexdigest() for name, upload in form.files.items()}
    sent = json.dumps([pipeline, dict(form.fields), files], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(sent.encode()).hexdigest()


async def _limited(request: Request, limit: int) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def _too_large(limit: int) -> InvalidInput:
    return InvalidInput(
        f"the request is larger than {limit / 2**20:g} MB; send a smaller picture", "IMAGE_TOO_LARGE", 413
    )


def _json(body: bytes) -> JSON:
    try:
        return _object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not a JSON object: {error}") from error


async def _multipart(request: Request, limit: int) -> Form:
    parser = MultiPartParser(
        request.headers, _limited(request, limit), max_files=MOST_PARTS, max_fields=MOST_PARTS
    )
    parser.spool_max_size = limit + 1
    try:
        parts = await parser.parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary in the content type
        raise InvalidInput(f"the body is not a multipart form: {error}") from error
    fields: dict[str, object] = {}
    files: dict[str, Upload] = {}
    try:
        for name, part in parts.multi_items():
            if isinstance(part, UploadFile):
                files[name] = Upload(part.filename or "", part.content_type or "", await part.read())
            else:
                fields[name] = part
    finally:
        await parts.close()
    return Form(fields, files)
