"""The error of the fake provider's API, in OpenAI's form."""

import msgspec

from eco2.errors import Eco2Error

INVALID = "invalid_request_error"


class ApiError(Eco2Error):
    """An HTTP error in OpenAI's form, `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def body(self) -> bytes:
        """Returns the JSON body of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


def invalid(message: str, param: str | None, code: str) -> ApiError:
    """Returns a 400 about one parameter."""
    return ApiError(400, message, INVALID, param, code)


def no_key(given: str | None, accepted: tuple[str, ...]) -> ApiError | None:
    """Returns the error for this `Authorization` header, if any. Without `accepted` any key will do."""
    scheme, _, key = (given or "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        return ApiError(401, "You sent no API key: add the header 'Authorization: Bearer YOUR_KEY'.")
    if accepted and key.strip() not in accepted:
        message = f"Incorrect API key provided: {key[:3]}***. Use one that the server was started with."
        return ApiError(401, message, code="invalid_api_key")
    return None


def no_model(name: str) -> ApiError:
    """Returns the 404 for a model that does not exist here."""
    message = f"The model '{name}' does not exist here; GET /v1/models lists those that do."
    return ApiError(404, message, param="model", code="model_not_found")


def out_of_quota() -> ApiError:
    """Returns the 429 of an empty account; waiting does not help."""
    message = "You exceeded your current quota: check your plan and billing details."
    return ApiError(429, message, "insufficient_quota", code="insufficient_quota")


def too_fast(what: str, limit: int, used: int, requested: int, retry_after: float | None) -> ApiError:
    """Returns the 429 of a window. `what`: requests or tokens. `retry_after`: None if it can never fit."""
    if retry_after is None:
        advice = f"Request too large: it asks for {requested} {what} and the limit is {limit} per minute."
    else:
        advice = (
            f"Limit {limit} per minute, used {used}, requested {requested}. Try again in {retry_after:.3f}s."
        )
    return ApiError(
        429,
        f"Rate limit reached for {what}: {advice}",
        what,
        code="rate_limit_exceeded",
        retry_after=retry_after,
    )
