"""Every error that Eco² raises on purpose: one root, and leaves by what the caller does with them.

* `RetryableError`: the same step may succeed later; nothing is wrong with the job.
* `PermanentError`: this job cannot succeed; it ends as failed with `code`.
* `ConfigurationError`: the process cannot start as it is configured; the message says what to change.
"""

from typing import Literal


class Eco2Error(Exception):
    """The root. Messages tell operators what to do next.

    `for_clients`: what the end client of a job reads in place of the message; None: the message.
    """

    for_clients: str | None = None


class ConfigurationError(Eco2Error):
    """The configuration or the environment does not let the process start."""


class StaleRun(Eco2Error):
    """Another run has the job: this one sends nothing more and stands by. The job itself goes on."""


class RetryableError(Eco2Error):
    """Trying the same step again later may succeed."""


class BrokerUnavailable(RetryableError):
    """The broker is not connected or refuses publishes (alarm); nothing was sent."""


class SpendLimit(RetryableError):
    """So much was paid today that no job is taken any more; jobs in flight finish.

    `retry_after`: seconds until the next day.
    """

    code = "SPEND_LIMIT"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverCapacity(RetryableError):
    """The process holds as much as it may; the client may send the request again.

    `retry_after`: seconds. `code` is what clients see.
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
    """The connection that brought the delivery is gone; the broker will deliver the message again."""


class NoReply(RetryableError):
    """A request got no reply in time; the request may have been handled."""


class ProviderError(RetryableError):
    """The model's provider answered with an error that may pass, or not at all.

    `retry_after`: seconds that the provider asked us to wait, or None.
    """

    for_clients = "the model is not available at present: send it again later"

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ProviderDown(ProviderError):
    """The provider answers nobody at present: no connection, or an error of its own (HTTP 5xx)."""


class ProviderTimeout(ProviderError):
    """The provider took the call and did not finish it in time. It may have been paid for, so it counts as a
    try; and it may be down without saying so, so the breaker counts it, too."""


LimitKind = Literal["requests", "tokens", "other"]


class RateLimited(ProviderError):
    """The provider answers, but not so often (HTTP 429): nothing is wrong with the call.

    `kind`: which of its limits was met; `other`: none of a minute's two, or it does not say.
    """

    def __init__(self, message: str, retry_after: float | None = None, kind: LimitKind = "other") -> None:
        super().__init__(message, retry_after)
        self.kind = kind


class GrantExpired(RetryableError):
    """A grant was not used in time: the call was not sent, and it may ask again."""


class PermanentError(Eco2Error):
    """The job cannot succeed. `code` is what clients see in `error.code`."""

    code = "FAILED"

    def __init__(self, message: str, code: str | None = None, for_clients: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if for_clients is not None:
            self.for_clients = for_clients


class PermanentFailure(PermanentError):
    """The job ends, and its order is kept: once the cause is mended, an operator may replay it.

    A bug (`INTERNAL`), a failure that outlasted every retry (`UNAVAILABLE`), a job that takes its process
    down with it (`POISON`), an order that nobody can read (`MALFORMED`).
    """


class InvalidInput(PermanentError):
    """A request that the pipeline cannot take; `status` is the HTTP status to answer with (4xx)."""

    code = "INVALID_REQUEST"

    def __init__(self, message: str, code: str | None = None, status: int = 422) -> None:
        super().__init__(message, code)
        self.status = status


class ProviderRefused(PermanentError):
    """The provider will not serve this call however often it is asked (bad request, refusal)."""

    code = "PROVIDER_REFUSED"


class InputRefused(ProviderRefused):
    """The provider's filter stopped what the job sent (or would get): nothing is wrong with the provider."""

    for_clients = "the model's provider does not accept this input: change it and send it again"


class CallUnsupported(ProviderRefused, PermanentFailure):
    """The model takes no such call (a parameter, pictures): another one may, or an operator changes it."""

    for_clients = "the model is not available at present: send it again later"


class ProviderAccessDenied(ProviderRefused, PermanentFailure):
    """The provider serves none of our calls until an operator acts (key, permission, quota)."""

    for_clients = "the model is not available at present: send it again later"


class TooLarge(PermanentError):
    """What a job would write is more than one message of the journal can be."""

    code = "OUTPUT_TOO_LARGE"
    for_clients = "the result is too large to be kept: ask for less at once"


class CallTooLarge(PermanentError):
    """One call needs more tokens than the budget of a whole minute: no waiting helps."""

    code = "CALL_TOO_LARGE"


class JobForgotten(PermanentError):
    """The journal no longer holds the job: it was dropped with the events of its time."""

    code = "GONE"


class DecodeError(PermanentError):
    """A message on the wire that this version cannot read (not JSON, unknown version, missing fields)."""

    code = "MALFORMED"
