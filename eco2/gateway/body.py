"""A request's body as a `Form`, read under limits of size, time and memory.

What it guarantees: a body that is too large is never held whole; all bodies of a process together stay within
its `Room`; members that the pipeline does not declare are skipped in C and never become Python objects.
Files stay in memory (the limits bound them), so that the process needs no writable disk.
"""

import asyncio
import codecs
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from pydantic import AliasChoices, AliasPath, BaseModel
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from eco2.errors import InvalidInput, OverCapacity
from eco2.gateway.config import GatewayConfig
from eco2.gateway.problem import LONGEST_QUOTE, RequestTooLarge
from eco2.pipeline import AnyPipeline, Form, Upload

Result = TypeVar("Result")

MOST_PARTS = 20
"""Fields, and files, of one multipart form."""
MAX_INLINE = 64 * 1024
"""Bytes of a body that are decoded and hashed on the event loop; larger ones, on a thread, one at a time."""
MAX_VALUES = 250_000
"""Values inside one member of a JSON body: each becomes a Python object of some 64 bytes (`VALUE_SIZE`)."""
VALUE_SIZE = 64
MAX_NUMBER = 400
"""Characters of a JSON number; a longer one is no number that Python could print again."""
MAX_CONTENT_TYPE = 1_000
"""Characters of the header; the parser of its parameters is not linear."""
FREE_SIZE = 16 * 1024
"""Bytes of each body that need no room, so that small requests pass while large ones fill it. The limit of
connections bounds them."""


class Room:
    """Bytes of bodies that the process may hold at once; `size`: of all together."""

    def __init__(self, size: int, retry_after: int) -> None:
        self._size = size
        self._retry_after = retry_after
        self._taken = 0

    @property
    def taken(self) -> int:
        return self._taken

    @contextmanager
    def hold(self) -> Iterator["Hold"]:
        """A share that is given back when the block ends."""
        hold = Hold(self)
        try:
            yield hold
        finally:
            self._taken -= hold.size

    def take(self, size: int) -> None:
        """Takes `size` bytes more. Raises `OverCapacity` if they are not free."""
        if self._taken + size > self._size:
            raise OverCapacity("too many uploads at once; send the request again", self._retry_after)
        self._taken += size


class Hold:
    """What one request has taken of the room."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self.size = 0

    def cover(self, size: int) -> None:
        """Takes what is missing for a request of `size` bytes. Raises `OverCapacity`."""
        missing = size - FREE_SIZE - self.size
        if missing > 0:
            self._room.take(missing)
            self.size += missing


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a JSON body that a pipeline takes, by their names on the wire.

    `names`: None where the input model keeps or refuses members that it does not declare itself.
    """

    names: frozenset[str] | None
    decode: Callable[[bytes], Mapping[str, msgspec.Raw]]

    @classmethod
    def of(cls, model: type[BaseModel], *more: str) -> "Members":
        """Those of the input model, and `more`."""
        extra = model.model_config.get("extra") or "ignore"
        if extra == "allow":
            return cls(None, msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)
        names = tuple(sorted({*more, *_wire_names(model)}))
        attributes = [f"member_{number}" for number in range(len(names))]
        struct = msgspec.defstruct(
            "Members",
            [(attribute, msgspec.Raw, msgspec.Raw()) for attribute in attributes],
            rename=dict(zip(attributes, names, strict=True)),
            forbid_unknown_fields=extra == "forbid",
            gc=False,
        )
        decoder = msgspec.json.Decoder(struct)

        def decode(body: bytes) -> Mapping[str, msgspec.Raw]:
            found = decoder.decode(body)
            pairs = ((name, getattr(found, key)) for key, name in zip(attributes, names, strict=True))
            return {name: raw for name, raw in pairs if memoryview(raw).nbytes}

        return cls(None if extra == "forbid" else frozenset(names), decode)

    def only(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        """What counts of a form's fields."""
        if self.names is None:
            return fields
        return {name: value for name, value in fields.items() if name in self.names}


def _wire_names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        alias = field.validation_alias or field.alias
        for choice in alias.choices if isinstance(alias, AliasChoices) else (alias,):
            if choice is not None:
                yield str(choice.path[0]) if isinstance(choice, AliasPath) else choice


@dataclass(frozen=True, slots=True)
class Body:
    """`digest`: SHA-256 (hex) of the form; see `digest`."""

    form: Form
    digest: str


class BodyReader:
    """Reads the requests of one pipeline. `more`: fields that it takes beside those of its input."""

    def __init__(self, pipeline: AnyPipeline, config: GatewayConfig, *more: str) -> None:
        self._pipeline = pipeline.name
        self._config = config
        self._members = Members.of(pipeline.input, *more)
        self._large = asyncio.Lock()

    async def read(self, request: Request, hold: Hold) -> Body:
        """The body's fields and files, as far as the pipeline takes them.

        `InvalidInput`: 413 for one too large, 408 for one that comes too slowly, 422 for what is no form.
        `OverCapacity` where the process has no room for it: before it is read, if its length is declared.
        """
        declared = request.headers.get("content-length", "")
        if declared.isascii() and declared.isdigit():
            length = int(declared[:20])
            if length > self._config.max_upload:
                raise _too_large(self._config)
            hold.cover(length)
        kind = _content_type(request)
        _check_encoding(request)
        if kind == "multipart/form-data":
            form = await _multipart(request, self._config, hold)
            form = Form(self._members.only(form.fields), form.files)
            size = sum(len(upload.data) for upload in form.files.values())
            size += sum(len(value) for value in form.fields.values() if isinstance(value, str))
        elif kind == "application/json":
            body = b"".join([chunk async for chunk in _limited(request, self._config, hold)])
            body = body.removeprefix(
                codecs.BOM_UTF8
            )  # RFC 8259 lets a parser ignore it, and Windows writes it
            if not body.strip():
                raise InvalidInput("no body: send JSON or a form")
            size = len(body)
            form = Form(await self._json(body, hold))
        else:
            raise InvalidInput(
                f"send application/json or multipart/form-data, not {kind[:LONGEST_QUOTE] or 'an empty type'}"
            )
        return Body(form, await self._run(size, lambda: digest(self._pipeline, form)))

    async def _json(self, body: bytes, hold: Hold) -> Mapping[str, object]:
        raws = await self._run(len(body), lambda: _members(self._members, body))
        hold.cover(len(body) + sum(map(_weight, raws.values())))
        return await self._run(len(body), lambda: {name: _value(raw) for name, raw in raws.items()})

    async def _run(self, size: int, work: Callable[[], Result]) -> Result:
        """Large ones go one at a time: each holds the interpreter for some 50 ms, and copies of the body."""
        if size <= MAX_INLINE:
            return work()
        async with self._large:
            return await asyncio.to_thread(work)


def digest(pipeline: str, form: Form) -> str:
    """SHA-256 (hex) of what the client sent: equal for equal fields and files, in whatever order."""
    files = {name: hashlib.sha256(upload.data).hexdigest() for name, upload in form.files.items()}
    try:
        sent = json.dumps([pipeline, dict(form.fields), files], sort_keys=True, ensure_ascii=False)
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise InvalidInput("the body has a value that cannot be read: send a simpler one") from error
    return hashlib.sha256(sent.encode()).hexdigest()


def _content_type(request: Request) -> str:
    header = request.headers.get("content-type", "application/json")
    if len(header) > MAX_CONTENT_TYPE:
        raise InvalidInput(f"the content type is longer than {MAX_CONTENT_TYPE} characters: shorten it")
    return header.partition(";")[0].strip().lower()


def _check_encoding(request: Request) -> None:
    if request.headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise InvalidInput("the body is compressed: send it without Content-Encoding")


async def _chunks(request: Request, config: GatewayConfig) -> AsyncGenerator[bytes, None]:
    """Only the time that is spent waiting for the client counts against its rate."""
    clock = asyncio.get_running_loop().time
    chunks = request.stream()
    end, waited, received = clock() + config.upload_seconds, 0.0, 0
    while True:
        began = clock()
        try:
            async with asyncio.timeout(
                min(end - began, config.upload_grace + received / config.upload_rate - waited)
            ):
                chunk = await anext(chunks)
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
        received += len(chunk)
        yield chunk


async def _limited(request: Request, config: GatewayConfig, hold: Hold) -> AsyncGenerator[bytes, None]:
    size = 0
    async for chunk in _chunks(request, config):
        size += len(chunk)
        if size > config.max_upload:
            raise _too_large(config)
        hold.cover(size)
        yield chunk


def _check_charset(request: Request) -> None:
    """Other codecs of Python's may make anything of a field: half a character, or an error of their own."""
    _, options = parse_options_header(request.headers["content-type"])
    charset = options.get(b"charset", b"utf-8")
    if charset.strip().lower() not in (b"utf-8", b"utf8"):
        raise InvalidInput("send the form in UTF-8")


def _too_large(config: GatewayConfig) -> RequestTooLarge:
    return RequestTooLarge(f"the request is larger than {config.max_upload / 2**20:g} MB; send a smaller one")


def _members(members: Members, body: bytes) -> Mapping[str, bytes]:
    try:
        return {name: bytes(raw) for name, raw in members.decode(body).items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _unreadable(error, whole=True) from error


def _unreadable(error: Exception, *, whole: bool) -> InvalidInput:
    """What is wrong with the `whole` body or a member, in our words: the decoder's mislead a client."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidInput("the body is not UTF-8: send JSON in UTF-8")
    if isinstance(error, RecursionError):
        return InvalidInput("the body is nested too deeply: send fewer levels")
    if isinstance(error, msgspec.ValidationError):
        if found := re.search(r"unknown field `(.*)`", str(error), re.DOTALL):
            return InvalidInput(f"the pipeline takes no field {found[1][:LONGEST_QUOTE]}: leave it out")
        if "out of range" in str(error):
            return InvalidInput("a number is too large: send it as a string")
        return InvalidInput('the body is not a JSON object: send {"name": value, ...}')
    place = re.search(r"\(byte \d+\)", str(error)) if whole else None
    where = f" {place[0]}" if place else ", or it is cut off, or has half a character"
    return InvalidInput(f"the body is not valid JSON{where}: correct it")


def _weight(raw: bytes) -> int:
    """Bytes that the value takes beside its text. Raises `InvalidInput` for one of too many values."""
    if raw[:1] in b"[{":
        values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")  # also those in strings: an upper bound
        if values > MAX_VALUES:
            raise InvalidInput(f"a member has more than {MAX_VALUES} values; send less at once")
        return VALUE_SIZE * values
    # One character beyond Latin-1 makes Python keep each of the text in two bytes or four.
    return 0 if raw.isascii() and b"\\u" not in raw else 4 * len(raw)


def _value(raw: bytes) -> object:
    if raw[:1] not in b'"[{' and len(raw) > MAX_NUMBER:
        raise InvalidInput(f"a number has more than {MAX_NUMBER} characters; send it as a string")
    try:
        return msgspec.json.decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _unreadable(error, whole=False) from error


class _FormParser(MultiPartParser):
    """A part that says to be no text is a file, though it has no name, or one only as `filename*`.

    RFC 7578 does without `filename*`, and urllib3 1 (requests) writes it for every name beyond ASCII.
    `ended`: the boundary came that closes the form.
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


def _words(error: MultiPartException) -> str:
    """What is wrong with a form; the parser's words are replaced by ours."""
    if "Too many" in error.message:
        return f"send at most {MOST_PARTS} fields and {MOST_PARTS} files"
    if "name" in error.message:
        return "give each part a name in its Content-Disposition"
    if "Missing boundary" in error.message:
        return "its Content-Type has no boundary; let your HTTP library write that header"
    return "its parts do not match the boundary of its Content-Type, or have too long headers"


async def _multipart(request: Request, config: GatewayConfig, hold: Hold) -> Form:
    _check_charset(request)
    parser = _FormParser(
        request.headers,
        _limited(request, config, hold),
        max_files=MOST_PARTS,
        max_fields=MOST_PARTS,
        max_part_size=config.max_upload,
    )
    parser.spool_max_size = config.max_upload + 1
    try:
        parts = await parser.parse()
    except MultiPartException as error:
        raise InvalidInput(f"the body is not a multipart form: {_words(error)}") from error
    if not parser.ended:
        await parts.close()
        raise InvalidInput("the form is cut off: its last boundary is missing; send it again")
    fields: dict[str, object] = {}
    files: dict[str, Upload] = {}
    try:
        for name, part in parts.multi_items():
            if isinstance(part, UploadFile):
                files[name] = Upload(part.filename or "", part.content_type or "", await part.read())
                await part.close()  # the parser's copy of the file goes before the next is read
            else:
                fields[name] = part
    finally:
        await parts.close()
    return Form(fields, files)
