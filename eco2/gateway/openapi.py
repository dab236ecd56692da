"""Builds the OpenAPI 3.1 document from the pipelines' input models: what the routes take and answer.

It guarantees nothing by itself; tests send what it describes, and what it does not, and compare.
"""

from collections.abc import Iterator, Sequence

from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from eco2 import __version__
from eco2.event import MAX_USD
from eco2.gateway.auth import OWNER_HEADER
from eco2.gateway.batch import KEY_FIELD, MAX_LINES, MEDIA_TYPE
from eco2.gateway.body import MODEL_FIELD
from eco2.gateway.config import GatewayConfig
from eco2.gateway.lookup import MAX_WAIT
from eco2.gateway.schemas import (
    OBJECT,
    SCHEMAS,
    TEXT,
    UUID,
    Schema,
    closed,
    content,
    event,
    header,
    integer,
    json_body,
    operation,
    ref,
    refusal,
    without_default,
    without_null,
)
from eco2.gateway.submission import (
    MAX_KEY,
    MAX_USD_HEADER,
    MAX_WAIT_HEADER,
    PRIORITY_HEADER,
    TIMEOUT_HEADER,
    usual_terms,
)
from eco2.job import JSON, PRIORITIES, Priority
from eco2.pipeline import AnyPipeline

_KEY = TEXT | {"pattern": f"^[ -~]{{0,{MAX_KEY}}}$"}
_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_STREAM = {
    name: {"required": True, "schema": {"const": value}}
    for name, value in {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}.items()
}
_JOB = {"parameters": [{"name": "job_id", "in": "path", "required": True, "schema": UUID}]}
_MODEL = "UNSUPPORTED_MODEL (lists `supported_models`)"
_UNAVAILABLE = refusal(503, "BROKER_UNAVAILABLE", _RETRY)


def document(pipelines: Sequence[AnyPipeline], config: GatewayConfig, prefixes: Sequence[str]) -> JSON:
    """Describes all routes; those of the pipelines exist under each of `prefixes`."""
    root = {"servers": [{"url": "/"}]}
    ready = [json_body(200, "Ready"), json_body(503, "NotReady")]
    schemas = dict(SCHEMAS)
    paths: dict[str, Schema] = {
        "/openapi.json": operation("This document.", json_body(200, None)),
        "/healthz": operation("Whether the process is alive.", json_body(200, "Health")) | root,
        "/readyz": operation("Whether it can do its work now.", *ready) | root,
    }
    for pipeline in pipelines:
        name = pipeline.name
        schemas |= request_schemas(pipeline, config) | event_schemas(pipeline)
        paths |= {
            f"/{name}": submission_item(pipeline, config),
            f"/{name}/batch": batch_item(pipeline, config),
            f"/{name}/{{job_id}}": cancel_item(pipeline, config),
            f"/{name}/{{job_id}}/events": events_item(pipeline, config),
            f"/{name}/{{job_id}}/result": result_item(pipeline, config),
            **{
                f"/{name}/{path}": operation(f"{path} of {name}.", json_body(200, None))
                for path in pipeline.routes
            },
        }
    components: dict[str, Schema] = {"schemas": schemas}
    if config.auth == "header":
        components["securitySchemes"] = {"owner": {"type": "apiKey", "in": "header", "name": OWNER_HEADER}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Eco²", "version": __version__},
        "servers": [{"url": prefix or "/"} for prefix in prefixes],
        "paths": paths,
        "components": components,
    }


def submission_item(pipeline: AnyPipeline, config: GatewayConfig) -> Schema:
    """Describes the route that takes jobs."""
    form: Schema = {"schema": ref(f"{pipeline.name}.form")}
    own = dict(pipeline.codes)
    if pipeline.uploads:
        form["encoding"] = {field: {"contentType": pipeline.upload_type} for field in pipeline.uploads}
    item = operation(
        f"Accepts a job of {pipeline.name}.",
        json_body(202, "Accepted", "It will end, whatever crashes."),
        json_body(200, "Accepted", "The job that this key named before."),
        refusal(400, f"{own.pop(400)}, {_MODEL}" if 400 in own else _MODEL),
        refusal(403, "CROSS_SITE: a page of another site sent it"),
        refusal(408, "REQUEST_TIMEOUT: the body came too slowly"),
        refusal(413, own.pop(413, "REQUEST_TOO_LARGE")),
        *(refusal(status, code) for status, code in own.items()),
        refusal(422, "INVALID_REQUEST, IDEMPOTENCY_MISMATCH, PRICE_UNKNOWN"),
        refusal(429, "OVER_CAPACITY: too many at once", _RETRY),
        refusal(503, "BROKER_UNAVAILABLE, SPEND_LIMIT", _RETRY) if config.daily_usd else _UNAVAILABLE,
        method="post",
    )
    item["post"] |= {
        "parameters": [
            header("Idempotency-Key", "Requests with the same key and body are one job.", _KEY),
            header("X-Idempotency-Key", "The same, where the other is missing.", _KEY),
            *terms(pipeline, config, "interactive"),
            header("traceparent", "W3C trace context.", TEXT),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref(f"{pipeline.name}.request")},
                "multipart/form-data": form,
            },
        },
    }
    return authenticated(item, config)


def terms(pipeline: AnyPipeline, config: GatewayConfig, priority: Priority) -> Iterator[Schema]:
    """Describes the headers for the terms of a job. `priority`: of requests that name none."""
    usual, most = usual_terms(pipeline, config, "interactive"), usual_terms(pipeline, config, "batch")
    waits = f"without it {usual.max_wait:g}, and {most.max_wait:g} for batch jobs"
    for name, limit, what in (
        (MAX_WAIT_HEADER, most.max_wait, f"Until its first call, else EXPIRED. Seconds; {waits}."),
        (
            TIMEOUT_HEADER,
            most.timeout,
            f"Of its work from then on, else TIMEOUT. Seconds; without it {most.timeout:g}.",
        ),
    ):
        number: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": limit}
        yield header(name, what, number)
    described = f"Batch jobs wait until no interactive one does; without it {priority}."
    yield header(PRIORITY_HEADER, described, {"enum": [*PRIORITIES]})
    if not config.priced:  # each job with a limit of cost would be refused
        return
    usd: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": pipeline.max_usd or float(MAX_USD)}
    otherwise = "any sum" if pipeline.max_usd is None else f"{pipeline.max_usd:g}"
    what = "That the job's calls may cost, else BUDGET_EXCEEDED."
    yield header(MAX_USD_HEADER, f"{what} USD; without it {otherwise}.", usd)


def batch_item(pipeline: AnyPipeline, config: GatewayConfig) -> Schema:
    """Describes the route that takes many jobs."""
    item = operation(
        f"Accepts jobs of {pipeline.name}, one per line.",
        ("200", content(MEDIA_TYPE, ref("Answer")) | {"description": BATCH}),
        refusal(403, "CROSS_SITE: a page of another site sent it"),
        refusal(408, "REQUEST_TIMEOUT: the first line came too slowly"),
        refusal(413, pipeline.codes.get(413, "REQUEST_TOO_LARGE")),
        refusal(422, "INVALID_REQUEST: no lines, or another type"),
        refusal(429, "OVER_CAPACITY: too many at once", _RETRY),
        _UNAVAILABLE,
        method="post",
    )
    described = (
        f"The key of each line that has no `{KEY_FIELD}`, with `/` and the number of the line behind it."
    )
    item["post"] |= {
        "parameters": [header("Idempotency-Key", described, _KEY), *terms(pipeline, config, "batch")],
        "requestBody": {"required": True, "content": {MEDIA_TYPE: {"schema": ref(f"{pipeline.name}.line")}}},
    }
    return authenticated(item, config)


BATCH = (
    "One Answer per line of the request, in order; both schemas are of one line. An Answer is what the line "
    "would have got as a request of its own, with its status. If there are fewer than lines, the last one "
    f"says why, and no line after it was accepted. At most {MAX_LINES:,} lines; blank ones do not count."
)


def events_item(pipeline: AnyPipeline, config: GatewayConfig) -> Schema:
    """Describes the route of event streams."""
    stages = [stage.name for stage in pipeline.stages]
    data = TEXT | {"contentMediaType": "application/json", "contentSchema": ref(f"{pipeline.name}.event")}
    durable = {"enum": ["queued", *stages, "done"]}
    live = [f"{stage}.{kind}" for stage in stages for kind in ("delta", "reset", "progress")]
    passing = {"enum": [*live, "retrying", "truncated"]}
    kinds = [closed(event=durable, data=data, id=TEXT), closed(event=passing, data=TEXT), closed(data=TEXT)]
    for kind in kinds:
        kind["properties"]["retry"] = integer(0)
    stream = content("text/event-stream", {"oneOf": kinds}) | {"headers": _STREAM}
    stream["description"] = (
        "Server-sent events; the schema is of one of them. Stages, `queued` and `done` have an `id` and a "
        f"{pipeline.name}.event as data, `<stage>.delta` has a Delta, `<stage>.reset` a Reset, "
        "`<stage>.progress` Branches, `retrying` a Retrying, `truncated` a Truncated, without `id`. `retry` "
        "comes with the first. Under `/api/v1` an unnamed message may follow `done`: docs/events.md."
    )
    item = operation(
        "The job's events, as they come.",
        ("200", stream),
        ("204", {"description": "The client has seen all."}),
        refusal(404, "NOT_FOUND"),
        refusal(410, "GONE: older than the journal"),
        refusal(429, "TOO_MANY_STREAMS: of this job or owner", _RETRY),
        _UNAVAILABLE,
    )
    item["get"]["parameters"] = [
        header("Last-Event-ID", "Only what came after this event.", TEXT),
        *(
            {"name": name, "in": "query", "description": "The same.", "schema": TEXT}
            for name in ("lastEventId", "last_event_id")
        ),
    ]
    return authenticated(item, config) | _JOB


def result_item(pipeline: AnyPipeline, config: GatewayConfig) -> Schema:
    """Describes the route of results."""
    item = operation(
        "The result of a job that has ended.",
        json_body(200, f"{pipeline.name}.result"),
        json_body(202, "Processing", "It has not ended.", _RETRY),
        refusal(404, "NOT_FOUND"),
        refusal(410, "GONE: older than the journal"),
        refusal(422, "INVALID_REQUEST: wait is no number"),
        _UNAVAILABLE,
    )
    described = f"Seconds to wait for the end of the job, at most {MAX_WAIT:g}, before the answer is 202."
    wait = {"type": "number", "minimum": 0, "default": 0}
    item["get"]["parameters"] = [{"name": "wait", "in": "query", "description": described, "schema": wait}]
    return authenticated(item, config) | _JOB


def cancel_item(pipeline: AnyPipeline, config: GatewayConfig) -> Schema:
    """Describes the route that cancels jobs."""
    item = operation(
        "Cancels a job, whatever it waits for; sent again, it has the same answer.",
        json_body(200, f"{pipeline.name}.result", "The job is cancelled."),
        refusal(403, "CROSS_SITE: a page of another site sent it"),
        refusal(404, "NOT_FOUND"),
        refusal(409, "ENDED: it had ended in another way before"),
        refusal(410, "GONE: older than the journal"),
        _UNAVAILABLE,
        method="delete",
    )
    return authenticated(item, config) | _JOB


def authenticated(item: Schema, config: GatewayConfig) -> Schema:
    """Adds what authentication asks for, where it is on."""
    if config.auth == "header":
        for each in item.values():
            each["responses"] |= [refusal(401, "UNAUTHORIZED")]
            each["security"] = [{"owner": []}]
    return item


def request_schemas(pipeline: AnyPipeline, config: GatewayConfig) -> dict[str, Schema]:
    """Describes a submission as JSON and as a form; with the schemas that these refer to."""
    name, models = pipeline.name, [*config.models, ""]
    schema = pipeline.input.model_json_schema(ref_template=f"#/components/schemas/{name}.{{model}}")
    parts = {f"{name}.{key}": part for key, part in schema.pop("$defs", {}).items()}
    schema["properties"] = schema.get("properties", {}) | {MODEL_FIELD: {"enum": [*models, None]}}
    # No default: generators of clients take a member that has one for required.
    schema["properties"] = {name: without_default(part) for name, part in schema["properties"].items()}
    # A form has no null, and files, each of which may stand for a member.
    files = {field: TEXT | {"contentMediaType": pipeline.upload_type} for field in pipeline.uploads}
    fields = {name: without_null(part) for name, part in schema["properties"].items()} | files
    form = schema | {"properties": fields | {MODEL_FIELD: {"enum": models}}}
    form["required"] = [one for one in form.get("required", []) if one not in pipeline.uploads.values()]
    # Each alternative has `properties`, too: without them generators of clients take it for anything.
    choices = [
        {"oneOf": [{"properties": {one: {}}, "required": [one]} for one in (member, field)]}
        for field, member in pipeline.uploads.items()
    ]
    form |= choices[0] if len(choices) == 1 else {"allOf": choices} if choices else {}
    line = schema | {"properties": schema["properties"] | {KEY_FIELD: {"anyOf": [_KEY, {"type": "null"}]}}}
    return parts | {f"{name}.request": schema, f"{name}.form": form, f"{name}.line": line}


def event_schemas(pipeline: AnyPipeline) -> dict[str, Schema]:
    """Describes the result, and each durable event; with the schemas that these refer to."""
    name, done = pipeline.name, ["completed", "failed", "cancelled"]
    result, parts = result_schema(pipeline)
    events = [event("queued", "started")]
    for stage in pipeline.stages:
        try:
            output, more = output_schema(stage.output, f"{name}.{stage.name}", by_alias=False)
        except PydanticInvalidForJsonSchema:  # it is stored all the same
            output, more = OBJECT, {}
        parts |= more
        events += [
            event(stage.name, "started"),
            event(stage.name, "completed", output),
            event(stage.name, "failed", ref("Error")),
        ]
    events.append(event("done", done, ref(f"{name}.result")))
    return parts | {f"{name}.result": result, f"{name}.event": {"oneOf": events}}


def result_schema(pipeline: AnyPipeline) -> tuple[Schema, dict[str, Schema]]:
    """Describes the result of a job: the engine's members and the pipeline's own."""
    if pipeline.result_type is None:
        return ref("Result"), {}
    own, parts = output_schema(pipeline.result_type, f"{pipeline.name}.result", by_alias=True)
    return closed(**SCHEMAS["Result"]["properties"], **own.get("properties", {})), parts


class WrittenSchema(GenerateJsonSchema):
    """A schema in which members that have a default are required: they are always written."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,  # as pydantic calls it
    ) -> bool:
        """Called by pydantic."""
        written = field["type"] != "typed-dict-field" and "serialization_exclude_if" not in field
        return written or super().field_is_required(field, total)


def output_schema(model: type[BaseModel], name: str, *, by_alias: bool) -> tuple[Schema, dict[str, Schema]]:
    """Describes what the model is written as; with the schemas that it refers to, each as `name`.Model."""
    template = f"#/components/schemas/{name}.{{model}}"
    schema = model.model_json_schema(by_alias, template, WrittenSchema, mode="serialization")
    return schema, {f"{name}.{key}": part for key, part in schema.pop("$defs", {}).items()}
