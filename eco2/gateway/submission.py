"""POST /{pipeline}: turns a request into a submission, and answers with the URLs of the accepted job."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import InvalidInput
from eco2.gateway.acceptance import Acceptance, Accepted, Submission
from eco2.gateway.auth import owner_of
from eco2.gateway.body import BodyMemory, BodyReader
from eco2.gateway.config import GatewayConfig
from eco2.gateway.problem import RequestTooLarge, UnsupportedModel, code_of, json_response
from eco2.job import PRIORITIES, Priority
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline, Form

KEY_HEADERS = ("idempotency-key", "x-idempotency-key")
MAX_KEY = 255
KEY = re.compile(rf"[\x20-\x7e]{{1,{MAX_KEY}}}")
MAX_WAIT_HEADER, TIMEOUT_HEADER = "Job-Max-Wait", "Job-Timeout"
PRIORITY_HEADER = "Job-Priority"
SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
"""A number as JSON writes it."""
MODEL_FIELD = "model"
"""The field that pins a model. It belongs to the gateway: pipelines do not see it."""


class Terms(NamedTuple):
    """The times (seconds) and the priority of a job, see `eco2.job.Job`."""

    max_wait: float
    timeout: float
    priority: Priority


class SubmissionEndpoint:
    """Takes the jobs of one pipeline. `most`: by priority, the terms of jobs whose clients ask for none."""

    def __init__(
        self,
        pipeline: AnyPipeline,
        acceptance: Acceptance,
        memory: BodyMemory,
        metrics: Metrics,
        config: GatewayConfig,
    ) -> None:
        self._pipeline = pipeline
        self._memory = memory
        self._bodies = BodyReader(pipeline, config, MODEL_FIELD)
        self._acceptance = acceptance
        self._metrics = metrics
        self._config = config
        self.most = {priority: most_terms(pipeline, config, priority) for priority in PRIORITIES}

    async def post(self, request: Request) -> Response:
        """202 for a new job, 200 for one that the key names; the URLs keep the prefix of this request."""
        began = time.monotonic()
        with self.counting_refusals():
            owner = owner_of(request, self._config.auth)
            key = idempotency_key(request)
            terms = terms_given(request, self.most, "interactive")
            with self._memory.reserving() as reserve:
                form, digest = await self._bodies.read(request, reserve)
                accepted = await self.accept(form, digest, key, owner, terms)
        return self.answer(accepted, request.url.path.rstrip("/"), began)

    async def accept(
        self, form: Form, digest: str, key: str | None, owner: str | None, terms: Terms
    ) -> Accepted:
        """Accepts what a client sent. Raises like `Acceptance.accept`, and `UnsupportedModel`."""
        model = pinned_model(form, self._config.models)
        fields = {name: value for name, value in form.fields.items() if name != MODEL_FIELD}
        parse = partial(self._parse, Form(fields, form.files, self._config.image_urls), model)
        return await self._acceptance.accept(
            Submission(
                digest=digest,
                parse=parse,
                key=key,
                model=model,
                owner=owner or "",
                **terms._asdict(),
            )
        )

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Counts an error of the block, and gives it the code that the pipeline has for it."""
        try:
            yield
        except Exception as error:
            if isinstance(error, RequestTooLarge):
                error.code = self._pipeline.codes.get(413, error.code)
            self._metrics.request_refused(self._pipeline.name, code_of(error))
            raise

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

    async def _parse(self, form: Form, model: str | None) -> BaseModel:
        pipeline = self._pipeline
        value: BaseModel = (
            await pipeline.parse(form) if pipeline.parse else pipeline.input.model_validate(form.fields)
        )
        if pipeline.check_local is not None:
            possible = {model or self._config.default_model} - {None} or set(self._config.models)
            if possible == {self._config.local_model}:  # no other model can take the job
                pipeline.check_local(value)
        return value


def idempotency_key(request: Request) -> str | None:
    """Returns the client's key, or None. Raises `InvalidInput` if any is too long or not ASCII."""
    keys = [value for name in KEY_HEADERS for value in request.headers.getlist(name) if value]
    valid = [valid_key(key) for key in keys]  # each that is sent
    return valid[0] if valid else None


def valid_key(key: object) -> str:
    """Returns the key. Raises `InvalidInput` if it is too long, or no text of ASCII."""
    if not isinstance(key, str) or not KEY.fullmatch(key):
        raise InvalidInput(f"Idempotency-Key must be 1 to {MAX_KEY} characters of ASCII; send a UUID")
    return key


def most_terms(pipeline: AnyPipeline, config: GatewayConfig, priority: Priority) -> Terms:
    """Returns the terms of a job whose client asks for no less: a batch job may wait for longer."""
    max_wait = pipeline.max_wait or config.max_wait
    if priority == "batch":
        max_wait = max(max_wait, config.batch_max_wait)
    return Terms(max_wait, pipeline.timeout or config.timeout, priority)


def terms_given(request: Request, all_most: Mapping[Priority, Terms], priority: Priority) -> Terms:
    """Returns the terms that the client asks for. Raises `InvalidInput` for others than there are.

    `all_most`: the most that there is, by priority. `priority`: of requests that name none.
    """
    if given := request.headers.getlist(PRIORITY_HEADER):
        if len(given) != 1 or given[0] not in PRIORITIES:
            allowed = " or ".join(PRIORITIES)
            raise InvalidInput(f"{PRIORITY_HEADER} must be {allowed}; send one of them, or leave it out")
        priority = given[0]
    most = all_most[priority]
    times = [most.max_wait, most.timeout]
    for place, header in enumerate((MAX_WAIT_HEADER, TIMEOUT_HEADER)):
        if not (given := request.headers.getlist(header)):
            continue
        limit = times[place]
        times[place] = float(given[0]) if len(given) == 1 and SECONDS.fullmatch(given[0]) else 0.0
        if not 0 < times[place] <= limit:
            raise InvalidInput(
                f"{header} must be a number of seconds, more than 0 and at most {limit:g} here; send "
                "such a one, or leave it out"
            )
    return Terms(times[0], times[1], priority)


def pinned_model(form: Form, supported: tuple[str, ...]) -> str | None:
    """Returns the model that the client asks for, or None. Raises `UnsupportedModel`."""
    model = form.fields.get(MODEL_FIELD)
    if model is None or model == "":
        return None
    if not isinstance(model, str) or model not in supported:
        raise UnsupportedModel(model, supported)
    return model
