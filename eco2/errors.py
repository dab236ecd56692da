"""Every error that Eco² raises on purpose: one root, and leaves by the reaction of the caller.

* `RetryableError`: the same step may succeed later; nothing is wrong with the job.
* `PermanentError`: this job cannot succeed; it ends as failed with `code`.
* `ConfigurationError`: the process cannot start as it is configured; the message says what to change.
"""

from typing import Literal


class Eco2Error(Exception):
    """The root. Messages tell operators what to do next.

    `for_clients`: the text that the end client of a job reads in place of the message; None: the message.
    """

    for_clients: str | None = None


class ConfigurationError(Eco2Error):
    """The configuration or the environment does not let the process start."""


class StaleRun(Eco2Error):
    """Another run has taken over the job: this one sends nothing more and waits. The job continues."""


class RetryableError(Eco2Error):
    """Trying the same step again later may succeed."""


class BrokerUnavailable(RetryableError):
    """The broker is not connected or refuses publishes (alarm); nothing was sent."""


class SpendLimit(RetryableError):
    """Today's spending has reached its limit: no further job is accepted; jobs in flight finish.

    `retry_after`: seconds until the next day.
    """

    code = "SPEND_LIMIT"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverCapacity(RetryableError):
    """The process has no room for the request; the client may send it again.

    `retry_after`: seconds. Clients see `code`.
    """

    code = "OVER_CAPACITY"

    def __init__(self, message: str, retry_after: float, code: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        if code is not None:
            self.code = code


class PublishUncertain(RetryableError):
    """The publish was sent and not confirmed in time; it may or may not take effect, now or later."""


class Unroutable(RetryableError):
    """The broker has no queue for the message: apply the topology (`eco2 topology apply`), then retry."""


class DeliveryLost(RetryableError):
    """The connection of the delivery is closed; the broker will deliver the message again."""


class ProviderError(RetryableError):
    """The model's provider did not answer, or answered with an error that may be temporary.

    `retry_after`: seconds that the provider asked us to wait, or None.
    """

    for_clients = "the model is not available at present: send it again later"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderDown(ProviderError):
    """The provider is down: no connection, or an error of its own (HTTP 5xx)."""


class ProviderTimeout(ProviderError):
    """The provider accepted the call and did not finish it in time.

    The call may have been paid for, so it counts as an attempt. The provider may be down, so the breaker
    counts it, too.
    """


LimitKind = Literal["requests", "tokens", "other"]


class RateLimited(ProviderError):
    """The provider limits the rate of calls (HTTP 429): the call itself is valid.

    `kind`: the limit that was exceeded; `other`: neither of the two per minute, or an unknown one.
    """

    def __init__(self, message: str, retry_after: float | None = None, kind: LimitKind = "other") -> None:
        super().__init__(message, retry_after)
        self.kind = kind


class GrantExpired(RetryableError):
    """A grant was not used in time: the call was not sent, and it may request another grant."""


class PermanentError(Eco2Error):
    """The job cannot succeed. Clients see `code` in `error.code`."""

    code = "FAILED"

    def __init__(self, message: str, code: str | None = None, for_clients: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if for_clients is not None:
            self.for_clients = for_clients


class PermanentFailure(PermanentError):
    """The job fails, and its order is kept: an operator may replay it once the cause is repaired.

    A bug (`INTERNAL`), a failure that outlasted every retry (`UNAVAILABLE`), a job that keeps crashing its
    worker (`POISON`), an order that cannot be decoded (`MALFORMED`). The messages are for operators.
    """

    for_clients = "the service failed to process this job: send it again later"


class InvalidInput(PermanentError):
    """The pipeline cannot accept the request; `status` is the HTTP status of the answer (4xx)."""

    code = "INVALID_REQUEST"

    def __init__(self, message: str, code: str | None = None, status: int = 422) -> None:
        super().__init__(message, code)
        self.status = status


class ProviderRefused(PermanentError):
    """The provider will never serve this call (bad request, refusal)."""

    code = "PROVIDER_REFUSED"


class InputRefused(ProviderRefused):
    """The provider's filter stopped the input or the answer of the job; the provider is up."""

    for_clients = "the model's provider does not accept this input: change it and send it again"


class CallUnsupported(ProviderRefused, PermanentFailure):
    """The model does not support the call (a parameter, pictures): another model may."""

    for_clients = "the model is not available at present: send it again later"


class ProviderAccessDenied(ProviderRefused, PermanentFailure):
    """The provider serves none of our calls until an operator acts (key, permission, quota)."""

    for_clients = "the model is not available at present: send it again later"


class TooLarge(PermanentError):
    """The output of a job is larger than a message of the journal may be."""

    code = "OUTPUT_TOO_LARGE"
    for_clients = "the result is too large: ask for less in one request"


class CallTooLarge(PermanentError):
    """One call needs more tokens than the budget of a whole minute: no waiting helps."""

    code = "CALL_TOO_LARGE"


class BudgetExceeded(PermanentError):
    """A call may cost more than is left of its job's `max_usd`, or its cost is not known.

    Nothing was sent. A stage may catch it and return what it has.
    """

    code = "BUDGET_EXCEEDED"


class JobForgotten(PermanentError):
    """The journal no longer holds the job: its events have passed the retention."""

    code = "GONE"


class DecodeError(PermanentError):
    """This version cannot decode a message (not JSON, unknown version, missing fields)."""

    code = "MALFORMED"
