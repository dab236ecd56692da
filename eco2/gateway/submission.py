"""POST /{pipeline}: the request's form becomes a submission, the accepted job an answer with its URLs."""

import re
import time

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from eco2.errors import InvalidInput
from eco2.gateway.acceptance import Acceptance, Submission
from eco2.gateway.body import BodyReader, Hold, Room
from eco2.gateway.config import GatewayConfig
from eco2.gateway.owner import submitter
from eco2.gateway.problem import RequestTooLarge, UnsupportedModel, code_of, json_response
from eco2.metrics import Metrics
from eco2.pipeline import AnyPipeline, Form

KEY_HEADERS = ("idempotency-key", "x-idempotency-key")
LONGEST_KEY = 255
KEY = re.compile(rf"[\x20-\x7e]{{1,{LONGEST_KEY}}}")
MODEL_FIELD = "model"
"""The field that pins a model. It is the gateway's: pipelines do not see it."""


class SubmissionEndpoint:
    """Takes the jobs of one pipeline."""

    def __init__(
        self,
        pipeline: AnyPipeline,
        acceptance: Acceptance,
        room: Room,
        metrics: Metrics,
        config: GatewayConfig,
    ) -> None:
        self._pipeline = pipeline
        self._room = room
        self._bodies = BodyReader(pipeline, config, MODEL_FIELD)
        self._acceptance = acceptance
        self._metrics = metrics
        self._config = config

    async def post(self, request: Request) -> Response:
        """202 for a new job, 200 for one that the key names; the URLs keep the prefix of this request."""
        began = time.monotonic()
        try:
            owner = submitter(request, self._config.auth)
            with self._room.hold() as hold:
                submission = await self._submission(request, owner, hold)
                accepted = await self._acceptance.accept(submission)
        except Exception as error:
            if isinstance(error, RequestTooLarge):
                error.code = self._pipeline.codes.get(413, error.code)
            self._metrics.request_refused(self._pipeline.name, code_of(error))
            raise
        if accepted.new:
            self._metrics.job_accepted(self._pipeline.name, time.monotonic() - began)
        url = f"{request.url.path.rstrip('/')}/{accepted.job_id}"
        return json_response(
            {
                "job_id": accepted.job_id,
                "status": accepted.status,
                "stream_url": f"{url}/events",
                "result_url": f"{url}/result",
            },
            202 if accepted.new else 200,
        )

    async def _submission(self, request: Request, owner: str, hold: Hold) -> Submission:
        key = idempotency_key(request)
        body = await self._bodies.read(request, hold)
        form = body.form
        model = pinned_model(form, self._config.models)
        rest = {name: value for name, value in form.fields.items() if name != MODEL_FIELD}
        return Submission(
            pipeline=self._pipeline.name,
            digest=body.digest,
            parse=lambda: self._parse(Form(rest, form.files, self._config.image_urls), model),
            owner=owner,
            key=key,
            model=model,
        )

    async def _parse(self, form: Form, model: str | None) -> BaseModel:
        pipeline = self._pipeline
        value: BaseModel = (
            await pipeline.parse(form) if pipeline.parse else pipeline.input.model_validate(form.fields)
        )
        if pipeline.check_local is not None and only_local(model, self._config):
            pipeline.check_local(value)
        return value


def only_local(model: str | None, config: GatewayConfig) -> bool:
    """True if a job with that pinned model can go to the local model only."""
    possible = {model or config.default_model} - {None} or set(config.models)
    return possible == {config.local_model}


def idempotency_key(request: Request) -> str | None:
    """The client's key, or None. Raises `InvalidInput` for what is too long to keep or no plain text."""
    key = next((value for name in KEY_HEADERS if (value := request.headers.get(name))), None)
    if key is not None and not KEY.fullmatch(key):
        raise InvalidInput(f"Idempotency-Key must be 1 to {LONGEST_KEY} characters of ASCII; send a UUID")
    return key


def pinned_model(form: Form, supported: tuple[str, ...]) -> str | None:
    """The model that the client asks for, or None. Raises `UnsupportedModel`."""
    model = form.fields.get(MODEL_FIELD)
    if model is None or model == "":
        return None
    if not isinstance(model, str) or model not in supported:
        raise UnsupportedModel(model, supported)
    return model
