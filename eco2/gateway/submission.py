"""POST /{pipeline}: turns a request into a submission, and answers with the URLs of the accepted job."""

import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import InvalidInput
from eco2.event import MAX_USD
from eco2.gateway.acceptance import Acceptance, Accepted, Terms
from eco2.gateway.auth import owner_of
from eco2.gateway.body import BodyMemory, BodyReader
from eco2.gateway.config import Auth, GatewayConfig
from eco2.gateway.problem import RequestTooLarge, code_of, json_response, logged_refusal
from eco2.job import PRIORITIES, Priority
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline

KEY_HEADERS = ("idempotency-key", "x-idempotency-key")
MAX_KEY = 255
KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY}}}")
MAX_WAIT_HEADER, TIMEOUT_HEADER, MAX_USD_HEADER = "Job-Max-Wait", "Job-Timeout", "Job-Max-USD"
PRIORITY_HEADER = "Job-Priority"
LIMITS = (
    ("max_wait", MAX_WAIT_HEADER, "seconds"),
    ("timeout", TIMEOUT_HEADER, "seconds"),
    ("max_usd", MAX_USD_HEADER, "USD"),
)
"""Member of `Terms`, header and unit of each limit that a client may ask for."""
NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""A number as JSON writes it."""


class SubmissionEndpoint:
    """Takes the jobs of one pipeline. `usual`: by priority, the terms of jobs that ask for no others."""

    def __init__(
        self,
        pipeline: AnyPipeline,
        acceptance: Acceptance,
        memory: BodyMemory,
        metrics: Metrics,
        config: GatewayConfig,
    ) -> None:
        self.acceptance = acceptance
        self.memory = memory
        self.config = config
        self.usual = {priority: usual_terms(pipeline, config, priority) for priority in PRIORITIES}
        self._pipeline = pipeline
        self._bodies = BodyReader(pipeline, config)
        self._metrics = metrics

    async def post(self, request: Request) -> Response:
        """202 for a new job, 200 for one that the key names; the URLs keep the prefix of this request."""
        began = time.monotonic()
        try:
            terms = terms_given(request, self.usual, "interactive", self.config.auth)
            with self.memory.reserving() as reserve:
                submission = await self._bodies.read(request, terms, reserve)
                accepted = await self.acceptance.accept(submission)
        except Exception as error:  # noqa: BLE001 - each is answered
            return self.refuse(request, error)
        return self.answer(accepted, request.url.path.rstrip("/"), began)

    def answer(self, accepted: Accepted, root: str, began: float) -> Response:
        """Returns the response to a submission that began then. `root`: path of the pipeline."""
        if accepted.new:
            self._metrics.job_accepted(self._pipeline.name, time.monotonic() - began)
        url = f"{root}/{accepted.job_id}"
        return json_response(
            {
                "job_id": accepted.job_id,
                "status": accepted.status,
                "stream_url": f"{url}/events",
                "result_url": f"{url}/result",
            },
            202 if accepted.new else 200,
        )

    def refuse(self, request: Request, error: Exception) -> Response:
        """Counts an error, gives it the code that the pipeline has for it, and returns its response."""
        if isinstance(error, RequestTooLarge):
            error.code = self._pipeline.codes.get(413, error.code)
        self._metrics.request_refused(self._pipeline.name, code_of(error))
        response = logged_refusal(request, error, self.config.retry_after)
        error.__traceback__ = None  # its frames hold the body, and may hold the error: the memory would stay
        return response


def usual_terms(pipeline: AnyPipeline, config: GatewayConfig, priority: Priority) -> Terms:
    """Returns the terms of a job whose client asks for no others: a batch job may wait for longer."""
    max_wait = pipeline.max_wait or config.max_wait
    return Terms(
        max_wait=max(max_wait, config.batch_max_wait) if priority == "batch" else max_wait,
        timeout=pipeline.timeout or config.timeout,
        max_usd=pipeline.max_usd,
        priority=priority,
    )


def terms_given(request: Request, usual: Mapping[Priority, Terms], priority: Priority, auth: Auth) -> Terms:
    """Returns the terms in the head of a request; the limits of the `usual` ones are also the highest.

    `usual`: by priority. `priority`: of requests that name none. Raises `Unauthorized`, and `InvalidInput`
    for a key, a priority or a limit that no job can have.
    """
    owner = owner_of(request, auth) or ""
    keys = [valid_key(key) for name in KEY_HEADERS for key in request.headers.getlist(name) if key]
    if given := request.headers.getlist(PRIORITY_HEADER):
        if len(given) != 1 or given[0] not in PRIORITIES:
            allowed = " or ".join(PRIORITIES)
            raise InvalidInput(f"{PRIORITY_HEADER} must be {allowed}; send one of them, or leave it out")
        priority = given[0]
    terms, limits = usual[priority], dict[str, Any]()
    for name, header, unit in LIMITS:
        if not (given := request.headers.getlist(header)):
            continue
        value = float(given[0]) if len(given) == 1 and NUMBER.fullmatch(given[0]) else 0.0
        most: float = getattr(terms, name) or float(MAX_USD)
        if not 0 < value <= most:
            raise InvalidInput(
                f"{header} must be a number of {unit}, more than 0 and at most {most:g} here; send such a "
                "one, or leave it out"
            )
        limits[name] = value
    return replace(terms, owner=owner, key=keys[0] if keys else None, **limits)


def valid_key(key: object) -> str:
    """Returns the key. Raises `InvalidInput` if it is too long, or no text of ASCII."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise InvalidInput(f"Idempotency-Key must be 1 to {MAX_KEY} characters of ASCII; send a UUID")
    return key
