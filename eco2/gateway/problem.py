"""Every refusal in one shape: `{"detail": …, "code": …}`, whatever raised it, in whichever route.

`detail` is for people and says what to do; programs look at `code`.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ExceptionHandler

from eco2.errors import InvalidInput, JobForgotten, OverCapacity, PermanentError, RetryableError, SpendLimit
from eco2.event import sound
from eco2.log import get_logger

log = get_logger(__name__)

UNAVAILABLE = "BROKER_UNAVAILABLE"
INTERNAL = "INTERNAL"
LONGEST_QUOTE = 100
"""Characters of what a client sent that its answer repeats."""
MOST_ERRORS = 5
"""Fields that one answer complains about."""


class RequestTooLarge(InvalidInput):
    """The request has more bytes than this installation takes; `Pipeline.codes` may name another code."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "REQUEST_TOO_LARGE", 413)


class UnsupportedModel(InvalidInput):
    """The client pinned a model that is not offered here; `supported` are."""

    code = "UNSUPPORTED_MODEL"

    def __init__(self, model: object, supported: tuple[str, ...]) -> None:
        wrong = (
            f"model {_quoted(model)} is not offered" if isinstance(model, str) else "model must be a string"
        )
        super().__init__(
            f"{wrong}; supported_models: {', '.join(supported)}",
            status=400,
        )
        self.supported = supported


def _quoted(value: str) -> str:
    """Text of bounded length."""
    return repr(value[:LONGEST_QUOTE])


class NotFound(InvalidInput):
    """No such job here, or none of the owner who asks."""

    code = "NOT_FOUND"

    def __init__(self, pipeline: str) -> None:
        super().__init__(
            f"there is no {pipeline} job of this id; check it, or send the request again", status=404
        )


class Unauthorized(InvalidInput):
    """Nobody has said who asks."""

    code = "UNAUTHORIZED"

    def __init__(self) -> None:
        super().__init__("the proxy in front must say who asks, by one header X-User-ID", status=401)


HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": 'Proxy realm="X-User-ID"'},
    408: {"Connection": "close"},
    429: {"Retry-After": "1"},
}
"""What goes with a refusal of that status, whoever refuses."""


def code_of(error: Exception) -> str:
    """The `code` that a client is told of the error."""
    match error:
        case PermanentError() | SpendLimit() | OverCapacity():
            return error.code
        case ValidationError():
            return InvalidInput.code
        case RetryableError():
            return UNAVAILABLE
        case ClientDisconnect():
            return "CLIENT_GONE"
        case _:
            return INTERNAL


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`content` as JSON, by the encoder that also writes the journal."""
    return Response(msgspec.json.encode(content), status, headers, media_type="application/json")


def handlers(retry_after: int) -> dict[type[Exception] | int, ExceptionHandler]:
    """What answers each kind of error. `retry_after`: seconds, sent with every 503."""

    async def unavailable(_: Request, error: Exception) -> Response:
        return problem(503, UNAVAILABLE, str(error), headers={"Retry-After": str(retry_after)})

    return {
        SpendLimit: _spend_limit,
        OverCapacity: _over_capacity,
        InvalidInput: _invalid,
        ValidationError: _misfit,
        JobForgotten: _gone,
        RetryableError: unavailable,
        ClientDisconnect: _disconnected,
        HTTPException: _http,
        Exception: _unexpected,
    }


def problem(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """A refusal as clients see it."""
    return json_response({"detail": sound(detail), "code": code, **more}, status, headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, InvalidInput)
    if isinstance(error, UnsupportedModel):
        return problem(error.status, error.code, str(error), supported_models=error.supported)
    return problem(error.status, error.code, str(error), HEADERS.get(error.status))


async def _spend_limit(_: Request, error: Exception) -> Response:
    assert isinstance(error, SpendLimit)
    headers = {"Retry-After": str(math.ceil(error.retry_after))}
    return problem(503, error.code, str(error), headers)


async def _over_capacity(_: Request, error: Exception) -> Response:
    assert isinstance(error, OverCapacity)
    return problem(429, error.code, str(error), {"Retry-After": str(math.ceil(error.retry_after))})


async def _misfit(_: Request, error: Exception) -> Response:
    assert isinstance(error, ValidationError)
    return problem(422, InvalidInput.code, describe(error))


async def _gone(_: Request, error: Exception) -> Response:
    return problem(410, JobForgotten.code, str(error))


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name
    return problem(error.status_code, code, error.detail, headers=error.headers)


async def _disconnected(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is there to read it


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("a request failed unexpectedly", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, INTERNAL, "this is a defect of the server; its log tells more")


def describe(error: ValidationError) -> str:
    """The fields that do not fit and why, on one line; never their values, which may be pictures."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in found]
    more = f"; and {len(lines) - MOST_ERRORS} more" if len(lines) > MOST_ERRORS else ""
    return "; ".join(lines[:MOST_ERRORS]) + more
