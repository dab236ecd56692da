"""Reads a request's body as a `Submission`, under limits of size, time and memory.

Guarantees: a body that is too large is never held whole; all bodies of a process together stay within its
`BodyMemory`; members that the pipeline does not declare are skipped in C and never become Python objects.
Files stay in memory (the limits bound them), so that the process needs no writable disk.
"""

import asyncio
import codecs
import hashlib
import json
import math
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar

import msgspec
from pydantic import AliasChoices, AliasPath, BaseModel
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eco2.errors import InvalidInput, OverCapacity
from eco2.gateway.acceptance import Submission, Terms
from eco2.gateway.config import GatewayConfig
from eco2.gateway.problem import MAX_QUOTE, RequestTooLarge, UnsupportedModel
from eco2.pipeline import AnyPipeline, Form, Upload

P = ParamSpec("P")
Result = TypeVar("Result")
Reserve = Callable[[int], None]
"""Reserves memory for a request of so many bytes in all. Raises `OverCapacity`."""

MODEL_FIELD = "model"
"""The field that pins a model. It belongs to the gateway: pipelines do not see it."""
TOO_LARGE = "the request is larger than {:g} MB; send a smaller one"
MAX_PARTS = 20
"""Fields, and files, of one multipart form."""
MAX_INLINE = 64 * 1024
"""Bytes of a body that are decoded and hashed on the event loop; larger ones, on a thread, one at a time."""
MAX_VALUES = 20_000
"""Values of a JSON body: each becomes a Python object of some 64 bytes (`VALUE_SIZE`), and hashing it may
hold the interpreter for two microseconds."""
VALUE_SIZE = 64
MAX_NUMBER = 200
"""Characters of a JSON number; the time to read and print one grows with the square of its length."""
MAX_CONTENT_TYPE = 1_000
"""Characters of the header; the parser of its parameters is not linear."""
FREE_SIZE = 16 * 1024
"""Bytes of each body that are not reserved, so that small requests pass while large ones fill the memory. The
limit of connections bounds them."""


class BodyMemory:
    """The memory for request bodies of a process. `size`: bytes of all; `taken`: of those held now."""

    def __init__(self, size: int, retry_after: int) -> None:
        self.taken = 0
        self._size = size
        self._retry_after = retry_after

    @contextmanager
    def reserving(self) -> Iterator[Reserve]:
        """Yields a function that reserves memory for one request; the end of the block releases it."""
        held = 0

        def reserve(size: int) -> None:
            nonlocal held
            missing = size - FREE_SIZE - held
            if missing <= 0:
                return
            if self.taken + missing > self._size:
                raise OverCapacity("too many uploads at once; send the request again", self._retry_after)
            self.taken += missing
            held += missing

        try:
            yield reserve
        finally:
            self.taken -= held


class Members:
    """The members of a JSON body that a pipeline takes, by their names on the wire.

    They are those of its input `model`, and `more`.
    """

    def __init__(self, model: type[BaseModel], *more: str) -> None:
        extra = model.model_config.get("extra") or "ignore"
        names = [] if extra == "allow" else sorted({*more, *wire_names(model)})
        attributes = [f"member_{number}" for number in range(len(names))]
        struct = msgspec.defstruct(
            "Members",
            [(attribute, msgspec.Raw, msgspec.Raw()) for attribute in attributes],
            rename=dict(zip(attributes, names, strict=True)),
            forbid_unknown_fields=extra == "forbid",
            gc=False,
        )
        self._names = names
        self._ignores_others = extra == "ignore"
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            dict[str, msgspec.Raw] if extra == "allow" else struct
        )

    def decode(self, body: bytes) -> tuple[dict[str, bytes], int]:
        """Returns the members as JSON, and the bytes that their values will take beside their text.

        Raises `InvalidInput` if the body is no JSON object, or its members have too many values.
        """
        try:
            found = self._decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise json_error(error, whole=True) from error
        if not isinstance(found, dict):
            found = dict(zip(self._names, msgspec.structs.astuple(found), strict=True))
        members = {name: bytes(raw) for name, raw in found.items() if memoryview(raw).nbytes}
        values = weight = 0
        for raw in members.values():
            if raw[:1] in b"[{":  # in strings, too: an upper bound
                values += raw.count(b",") + raw.count(b"[") + raw.count(b"{")
            elif not raw.isascii() or b"\\u" in raw:
                # One character beyond Latin-1 makes Python keep each of the text in two bytes or four.
                weight += 4 * len(raw)
        if values > MAX_VALUES:
            raise InvalidInput(f"the body has more than {MAX_VALUES:,} values; send less at once")
        return members, weight + VALUE_SIZE * values

    def only(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        """Returns those of a form's fields that are members; all, if the model decides about the others."""
        if not self._ignores_others:
            return fields
        return {name: value for name, value in fields.items() if name in self._names}


def wire_names(model: type[BaseModel]) -> Iterator[str]:
    """Yields the names by which the model's fields may be sent."""
    for name, field in model.model_fields.items():
        yield name
        alias = field.validation_alias or field.alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else (alias,):
            if choice is not None:
                yield str(choice.path[0]) if isinstance(choice, AliasPath) else choice


def finite(text: str) -> float:
    """Reads a float. Raises `msgspec.ValidationError` for one that is too large."""
    value = float(text)
    if math.isinf(value):
        raise msgspec.ValidationError("out of range")
    return value


_VALUES = msgspec.json.Decoder(float_hook=finite)
"""As in `eco2/job.py`, msgspec's own conversion would take too long."""
_AS_ZERO = bytes.maketrans(b"123456789", b"0" * 9)


def decode_values(members: Mapping[str, bytes]) -> dict[str, object]:
    """Returns the values of `Members.decode`. Raises `InvalidInput`."""
    for raw in members.values():
        inside = (
            raw[:1] in b"[{" and len(raw) > MAX_INLINE and b"0" * (MAX_NUMBER + 1) in raw.translate(_AS_ZERO)
        )
        if inside or (raw[:1] not in b'"[{' and len(raw) > MAX_NUMBER):
            raise InvalidInput(f"a number has more than {MAX_NUMBER} characters; send it as a string")
    try:
        return {name: _VALUES.decode(raw) for name, raw in members.items()}
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise json_error(error, whole=False) from error


def json_error(error: Exception, *, whole: bool) -> InvalidInput:
    """Describes why the `whole` body, or a member, cannot be read: the decoder's messages would mislead."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("the body is not UTF-8: send JSON in UTF-8")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply: send fewer levels")
    if isinstance(error, msgspec.ValidationError):
        if found := re.search(r"unknown field `(.*)`", str(error), re.DOTALL):
            return InvalidInput(f"the pipeline takes no field {found[1][:MAX_QUOTE]}: leave it out")
        if "out of range" in str(error):
            return InvalidInput("a number is too large: send it as a string")
        return InvalidInput('the body is not a JSON object: send {"name": value, ...}')
    place = re.search(r"\(byte \d+\)", str(error)) if whole else None
    where = f" {place[0]}" if place else ", or it is cut off, or has half a character"
    return InvalidInput(f"the body is not valid JSON{where}: correct it")


def declared(request: Request, config: GatewayConfig, default: str) -> tuple[str, int]:
    """Returns the type and length of the body that the head declares; "" and 0 where it does not.

    `default`: the type without such a header. Raises `RequestTooLarge`, and `InvalidInput`, also for a
    compressed body.
    """
    given = request.headers.get("content-length", "")
    length = int(given[:20]) if given.isascii() and given.isdigit() else 0
    if length > config.max_upload:
        raise RequestTooLarge(TOO_LARGE.format(config.max_upload / 2**20))
    header = request.headers.get("content-type", default)
    if len(header) > MAX_CONTENT_TYPE:
        raise InvalidInput(f"the content type is longer than {MAX_CONTENT_TYPE} characters: shorten it")
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise InvalidInput("the body is compressed: send it without Content-Encoding")
    return header.partition(";")[0].strip().lower(), length


class BodyReader:
    """Reads the requests of one pipeline. `more`: fields that it takes beside the model and the input's."""

    def __init__(self, pipeline: AnyPipeline, config: GatewayConfig, *more: str) -> None:
        self._pipeline = pipeline.name
        self._config = config
        self._members = Members(pipeline.input, MODEL_FIELD, *more)
        self._large = asyncio.Lock()

    async def read(self, request: Request, terms: Terms, reserve: Reserve) -> Submission:
        """Returns the submission of a whole body, as far as the pipeline takes its fields and files.

        `InvalidInput`: 413 for one too large, 408 for one that comes too slowly, 422 for what is no form.
        `OverCapacity` if the process has no memory left for it: before it is read, if its length is declared.
        Raises as `submission`, too.
        """
        kind, length = declared(request, self._config, "application/json")
        reserve(length)
        chunks = limited(request, self._config, reserve)
        match kind:
            case "multipart/form-data":
                form = await read_form(request, chunks, self._config.max_upload)
                form = Form(self._members.only(form.fields), form.files)
                size = sum(len(upload.data) for upload in form.files.values())
                size += sum(len(value) for value in form.fields.values() if isinstance(value, str))
            case "application/json":
                # RFC 8259 lets a parser ignore the byte order mark, which Windows writes.
                body = b"".join([chunk async for chunk in chunks]).removeprefix(codecs.BOM_UTF8)
                if not body.strip():
                    raise InvalidInput("no body: send JSON or a form")
                size = len(body)
                form = Form(await self.read_json(body, reserve))
            case _:
                kind = kind[:MAX_QUOTE] or "an empty type"
                raise InvalidInput(f"send application/json or multipart/form-data, not {kind}")
        return await self.submission(form, size, terms)

    async def read_json(self, body: bytes, reserve: Reserve) -> dict[str, object]:
        """Returns the members of a JSON object that the pipeline takes. Raises as `read`."""
        members, weight = await self._run(len(body), self._members.decode, body)
        reserve(len(body) + weight)
        return await self._run(len(body), decode_values, members)

    async def submission(self, form: Form, size: int, terms: Terms) -> Submission:
        """Returns the submission of a form of `size` bytes. Raises `InvalidInput`, `UnsupportedModel`."""
        content = await self._run(size, digest, self._pipeline, form)
        fields, supported = dict(form.fields), self._config.models
        model = fields.pop(MODEL_FIELD, None)
        if model in (None, ""):
            model = None
        elif not isinstance(model, str) or model not in supported:
            raise UnsupportedModel(model, supported)
        own = Form(fields, form.files, self._config.image_urls)
        return Submission(own, content, terms if model is None else replace(terms, model=model))

    async def _run(self, size: int, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Large ones go one at a time: each holds the interpreter for some 50 ms, and copies of the body."""
        if size <= MAX_INLINE:
            return work(*args, **kwargs)
        async with self._large:
            return await asyncio.to_thread(work, *args, **kwargs)


def digest(pipeline: str, form: Form) -> str:
    """Returns the SHA-256 (hex) of a request: equal for equal fields and files, in whatever order."""
    files = {name: hashlib.sha256(upload.data).hexdigest() for name, upload in form.files.items()}
    try:
        sent = json.dumps([pipeline, dict(form.fields), files], sort_keys=True, ensure_ascii=False)
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InvalidInput("the body has a value that cannot be read: send a simpler one") from error
    return hashlib.sha256(sent.encode()).hexdigest()


async def limited(request: Request, config: GatewayConfig, reserve: Reserve) -> AsyncGenerator[bytes, None]:
    """Yields the body's pieces within the limits. Only the time spent waiting for the client counts."""
    clock = asyncio.get_running_loop().time
    pieces = request.stream()
    waited, received = 0.0, 0
    while True:
        began = clock()
        allowed = min(config.upload_seconds, config.upload_grace + received / config.upload_rate)
        try:
            async with asyncio.timeout(allowed - waited):
                piece = await anext(pieces)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise InvalidInput(
                f"the body came too slowly: it has {config.upload_seconds:g} s in all, and must bring "
                f"{config.upload_rate / 1000:g} kB/s after {config.upload_grace:g} s; send it again",
                "REQUEST_TIMEOUT",
                408,
            ) from error
        waited += clock() - began
        received += len(piece)
        if received > config.max_upload:
            raise RequestTooLarge(TOO_LARGE.format(config.max_upload / 2**20))
        reserve(received)
        yield piece


async def lines(request: Request, config: GatewayConfig, reserve: Reserve) -> AsyncGenerator[bytes, None]:
    """Yields the body's lines that are not blank, within the limits of a body.

    It holds one line and one piece of the body.
    """
    pieces: list[bytes] = []
    held, start = 0, True
    async with aclosing(limited(request, config, ignore)) as chunks:
        async for chunk in chunks:
            if start:
                chunk, start = chunk.removeprefix(codecs.BOM_UTF8), False
            *ends, rest = chunk.split(b"\n")
            if ends:
                ends[0] = b"".join([*pieces, ends[0]])
                pieces.clear()
                held = 0
                for line in filter(None, map(bytes.strip, ends)):  # fast: a piece may be all line ends
                    yield line
            if rest:
                pieces.append(rest)
                held += len(rest)
                reserve(2 * held)  # with the copy that joins the pieces
    if line := b"".join(pieces).strip():
        yield line


def ignore(_: int) -> None:
    """Reserves nothing."""


class FormParser(MultiPartParser):
    """Parses multipart forms. A part that declares to be no text is a file, also without a usable file name.

    RFC 7578 forbids `filename*`; urllib3 1 (requests) still writes it for every name that is not ASCII.
    `ended`: the boundary that closes the form has come.
    """

    ended = False

    def on_headers_finished(self) -> None:
        """Called by the parser."""
        part = self._current_part
        disposition = part.content_disposition or b""
        kind = dict(part.item_headers).get(b"content-type", b"text/plain")
        unnamed = b"filename" not in disposition and not kind.lower().startswith(b"text/")
        if unnamed or (_EXTENDED_NAME.search(disposition) and not _NAME.search(disposition)):
            part.content_disposition = disposition + b'; filename=""'
        super().on_headers_finished()

    def on_end(self) -> None:
        """Called by the parser."""
        self.ended = True


_NAME = re.compile(rb";\s*filename\s*=", re.IGNORECASE)
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)
_FORM_ERRORS = {
    "Too many": f"send at most {MAX_PARTS} fields and {MAX_PARTS} files",
    "name": "give each part a name in its Content-Disposition",
    "Missing boundary": "its Content-Type has no boundary; let your HTTP library write that header",
    "": "its parts do not match the boundary of its Content-Type, or have too long headers",
}
"""Messages for clients, by a piece of the parser's own; the first that fits counts."""


async def read_form(request: Request, chunks: AsyncGenerator[bytes, None], max_size: int) -> Form:
    """Returns the fields and files of a multipart form. Raises `InvalidInput`."""
    # Python's other codecs may make anything of a field: half a character, or an error of their own.
    _, options = parse_options_header(request.headers["content-type"])
    if options.get(b"charset", b"utf-8").strip().lower() not in (b"utf-8", b"utf8"):
        raise InvalidInput("send the form in UTF-8")
    parser = FormParser(
        request.headers, chunks, max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=max_size
    )
    parser.spool_max_size = max_size + 1
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        why = next(ours for theirs, ours in _FORM_ERRORS.items() if theirs in error.message)
        raise InvalidInput(f"the body is not a multipart form: {why}") from error
    fields: dict[str, object] = {}
    files: dict[str, Upload] = {}
    try:
        if not parser.ended:
            raise InvalidInput("the form is cut off: its last boundary is missing; send it again")
        for name, part in parts.multi_items():
            if isinstance(part, UploadFile):
                files[name] = Upload(part.filename or "", part.content_type or "", await part.read())
                await part.close()  # the parser's copy of the file goes before the next is read
            else:
                fields[name] = part
    finally:
        await parts.close()
    return Form(fields, files)
