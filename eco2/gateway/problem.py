"""Answers every error in one shape: `{"detail": …, "code": …}`, whatever raised it, in whichever route.

`detail` is for people and states what to do; programs compare `code`.
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
from eco2.event import replace_surrogates
from eco2.log import get_logger

log = get_logger(__name__)

UNAVAILABLE = "BROKER_UNAVAILABLE"
INTERNAL = "INTERNAL"
MAX_QUOTE = 100
"""Characters of what a client sent that its answer repeats."""
MAX_ERRORS = 5
"""Fields that one answer complains about."""
NO_STORE = {"Cache-Control": "no-store"}
"""A header of every response but event streams."""


class RequestTooLarge(InvalidInput):
    """The request has more bytes than this installation takes; `Pipeline.codes` may name another code."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "REQUEST_TOO_LARGE", 413)


class UnsupportedModel(InvalidInput):
    """The client pinned a model that is not offered here; those in `supported` are."""

    code = "UNSUPPORTED_MODEL"

    def __init__(self, model: object, supported: tuple[str, ...]) -> None:
        wrong = "model must be a string"
        if isinstance(model, str):
            wrong = f"model {model[:MAX_QUOTE]!r} is not offered"
        super().__init__(f"{wrong}; supported_models: {', '.join(supported)}", status=400)
        self.supported = supported


class NotFound(InvalidInput):
    """The pipeline has no such job, or its owner is another."""

    code = "NOT_FOUND"

    def __init__(self, pipeline: str) -> None:
        super().__init__(
            f"there is no {pipeline} job of this id; check it, or send the request again", status=404
        )


class Unauthorized(InvalidInput):
    """The request does not name its owner, or names two."""

    code = "UNAUTHORIZED"

    def __init__(self) -> None:
        super().__init__("the proxy in front must name the user in one header X-User-ID", status=401)


HEADERS: Mapping[int, Mapping[str, str]] = {
    401: {"WWW-Authenticate": 'Proxy realm="X-User-ID"'},
    408: {"Connection": "close"},
    429: {"Retry-After": "1"},
}
"""Headers of each refusal with that status."""


def code_of(error: Exception) -> str:
    """Returns the `code` with which clients are answered."""
    match error:
        case PermanentError() | SpendLimit() | OverCapacity():
            return error.code
        case ValidationError():
            return InvalidInput.code
        case RetryableError():
            return UNAVAILABLE
        case ClientDisconnect():
            return "CLIENT_GONE"
        case HTTPException():
            return HTTPStatus(error.status_code).name
        case _:
            return INTERNAL


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Returns `content` as JSON, by the encoder that also writes the journal. It may not be cached."""
    return Response(
        msgspec.json.encode(content), status, {**NO_STORE, **(headers or {})}, media_type="application/json"
    )


def problem(
    status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: object
) -> Response:
    """Returns a refusal as clients see it."""
    return json_response({"detail": replace_surrogates(detail), "code": code, **more}, status, headers)


def handlers(retry_after: int) -> dict[type[Exception] | int, ExceptionHandler]:
    """Returns what Starlette calls for each kind of error. `retry_after`: seconds, sent with most 503."""

    async def answer(request: Request, error: Exception) -> Response:
        return logged_refusal(request, error, retry_after)

    kinds = (
        InvalidInput,
        ValidationError,
        JobForgotten,
        RetryableError,
        ClientDisconnect,
        HTTPException,
        Exception,
    )
    return dict.fromkeys(kinds, answer)


def logged_refusal(request: Request, error: Exception, retry_after: int) -> Response:
    """Returns the answer for an error; logs one that nobody expects."""
    response = refusal(error, retry_after)
    if response.status_code == 500:
        where = {"method": request.method, "path": request.url.path}
        log.error("a request failed unexpectedly", **where, exc_info=error)
    return response


def refusal(error: Exception, retry_after: int) -> Response:
    """Returns the answer for an error."""
    code, detail = code_of(error), str(error)
    match error:
        case UnsupportedModel():
            return problem(error.status, code, detail, supported_models=error.supported)
        case InvalidInput():
            return problem(error.status, code, detail, HEADERS.get(error.status))
        case ValidationError():
            return problem(422, code, describe(error))
        case JobForgotten():
            return problem(410, code, detail)
        case OverCapacity():
            return problem(429, code, detail, {"Retry-After": str(math.ceil(error.retry_after))})
        case SpendLimit():
            return problem(503, code, detail, {"Retry-After": str(math.ceil(error.retry_after))})
        case RetryableError():
            return problem(503, code, detail, {"Retry-After": str(retry_after)})
        case HTTPException():
            return problem(error.status_code, code, error.detail, error.headers)
        case ClientDisconnect():
            return Response(status_code=400)  # the client is gone
    return problem(500, INTERNAL, "this is a defect of the server; its log has the details")


def describe(error: ValidationError) -> str:
    """Lists the fields that do not fit, and why, on one line; never their values, which may be pictures."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}" for item in found]
    more = f"; and {len(lines) - MAX_ERRORS} more" if len(lines) > MAX_ERRORS else ""
    return "; ".join(lines[:MAX_ERRORS]) + more
