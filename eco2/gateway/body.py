"""A request's body as a `Form`, read under a limit: a body that is too large is never held whole.

Files stay in memory (the limit bounds them), so that the process needs no writable disk.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator

import msgspec
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eco2.errors import InvalidInput
from eco2.gateway.problem import LONGEST_QUOTE
from eco2.job import JSON
from eco2.pipeline import Form, Upload

MOST_PARTS = 20
"""Fields, and files, of one multipart form."""
HASHED_AT_ONCE = 64 * 1024
"""Bytes that are hashed on the event loop; more of them, on a thread."""

_object: msgspec.json.Decoder[JSON] = msgspec.json.Decoder(JSON)


async def read_form(request: Request, limit: int, stall: float) -> Form:
    """The body's fields and files.

    `InvalidInput`: 413 above `limit` bytes, 408 after `stall` seconds without any, 422 for what is no form.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
        raise _too_large(limit)
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _multipart(request, limit, stall)
    if kind == "application/json":
        return Form(_json(b"".join([chunk async for chunk in _limited(request, limit, stall)])))
    raise InvalidInput(f"send application/json or multipart/form-data, not {kind[:LONGEST_QUOTE]}")


def digest(pipeline: str, form: Form) -> str:
    """SHA-256 (hex) of what the client sent: equal for equal fields and files, in whatever order."""
    files = {name: hashlib.sha256(upload.data).hexdigest() for name, upload in form.files.items()}
    try:
        sent = json.dumps([pipeline, dict(form.fields), files], sort_keys=True, ensure_ascii=False)
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InvalidInput(f"the body is no request that can be read ({error})") from error
    return hashlib.sha256(sent.encode()).hexdigest()


async def form_digest(pipeline: str, form: Form) -> str:
    """`digest`, on another thread where it takes long enough to hold up the event loop."""
    size = sum(len(upload.data) for upload in form.files.values())
    size += sum(len(value) for value in form.fields.values() if isinstance(value, str))
    if size <= HASHED_AT_ONCE:
        return digest(pipeline, form)
    return await asyncio.to_thread(digest, pipeline, form)


async def _chunks(request: Request, stall: float) -> AsyncGenerator[bytes, None]:
    chunks = request.stream()
    try:
        while True:
            async with asyncio.timeout(stall):
                chunk = await anext(chunks)
            yield chunk
    except StopAsyncIteration:
        return
    except TimeoutError as error:
        raise InvalidInput(f"nothing of the body came for {stall:g} s", "REQUEST_TIMEOUT", 408) from error


async def _limited(request: Request, limit: int, stall: float) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in _chunks(request, stall):
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


def _check_charset(request: Request) -> None:
    """Other codecs of Python's may make anything of a field: half a character, or an error of their own."""
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8")
    if charset.strip().lower() not in (b"utf-8", b"utf8"):
        raise InvalidInput("send the form in UTF-8")


def _too_large(limit: int) -> InvalidInput:
    return InvalidInput(
        f"the request is larger than {limit / 2**20:g} MB; send a smaller picture", "IMAGE_TOO_LARGE", 413
    )


def _json(body: bytes) -> JSON:
    try:
        return _object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the body is not a JSON object: {error}") from error


class _FormParser(MultiPartParser):
    """A part that says to be no text is a file, though it has no name."""

    def on_headers_finished(self) -> None:
        """Called by the parser."""
        part = self._current_part
        disposition = part.content_disposition or b""
        kind = dict(part.item_headers).get(b"content-type", b"text/plain")
        if b"filename" not in disposition and not kind.lower().startswith(b"text/"):
            part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()


async def _multipart(request: Request, limit: int, stall: float) -> Form:
    _check_charset(request)
    parser = _FormParser(
        request.headers,
        _limited(request, limit, stall),
        max_files=MOST_PARTS,
        max_fields=MOST_PARTS,
        max_part_size=limit,
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
