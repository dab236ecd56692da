"""Builds the OpenAPI 3.1 document from the pipelines' input models: what the routes take and answer.

It guarantees nothing by itself; tests send what it describes, and what it does not, and compare.
"""

from collections.abc import Sequence

from eco2 import __version__
from eco2.gateway.auth import OWNER_HEADER
from eco2.gateway.config import GatewayConfig
from eco2.gateway.schemas import (
    SCHEMAS,
    TEXT,
    UUID,
    Schema,
    closed,
    content,
    header,
    integer,
    json_body,
    operation,
    ref,
    refusal,
    without_null,
)
from eco2.gateway.submission import MAX_KEY, MAX_WAIT_HEADER, MODEL_FIELD, TIMEOUT_HEADER
from eco2.job import JSON
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
        schemas |= request_schemas(pipeline, config)
        paths |= {
            f"/{name}": submission_item(pipeline, config),
            f"/{name}/{{job_id}}": cancel_item(config),
            f"/{name}/{{job_id}}/events": events_item([stage.name for stage in pipeline.stages], config),
            f"/{name}/{{job_id}}/result": result_item(config),
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
        refusal(422, "INVALID_REQUEST, IDEMPOTENCY_MISMATCH"),
        refusal(429, "OVER_CAPACITY: too many at once", _RETRY),
        refusal(503, "BROKER_UNAVAILABLE, SPEND_LIMIT", _RETRY) if config.daily_usd else _UNAVAILABLE,
        method="post",
    )
    item["post"] |= {
        "parameters": [
            header("Idempotency-Key", "Requests with the same key and body are one job.", _KEY),
            header("X-Idempotency-Key", "The same, where the other is missing.", _KEY),
            seconds(
                MAX_WAIT_HEADER, pipeline.max_wait or config.max_wait, "Until its first call, else EXPIRED."
            ),
            seconds(
                TIMEOUT_HEADER, pipeline.timeout or config.timeout, "Of its work from then on, else TIMEOUT."
            ),
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


def seconds(name: str, most: float, what: str) -> Schema:
    """Describes a header that shortens a time of the job, which is `most` without it."""
    number: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": most}
    return header(name, f"{what} Seconds; without it {most:g}.", number)


def events_item(stages: Sequence[str], config: GatewayConfig) -> Schema:
    """Describes the route of event streams."""
    durable = {"enum": ["queued", *stages, "done"]}
    passing = {"enum": [*(f"{stage}.delta" for stage in stages), "truncated"]}
    kinds = [closed(event=durable, data=TEXT, id=TEXT), closed(event=passing, data=TEXT), closed(data=TEXT)]
    for kind in kinds:
        kind["properties"]["retry"] = integer(0)
    stream = content("text/event-stream", {"oneOf": kinds}) | {"headers": _STREAM}
    stream["description"] = (
        "Server-sent events; the schema is of one of them. Stages, `queued` and `done` have an `id` and an "
        "Event as data, `<stage>.delta` has a Delta, `truncated` a Truncated, both without `id`. `retry` "
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


def result_item(config: GatewayConfig) -> Schema:
    """Describes the route of results."""
    item = operation(
        "The result of a job that has ended.",
        json_body(200, "Result"),
        json_body(202, "Processing", "It has not ended.", _RETRY),
        refusal(404, "NOT_FOUND"),
        refusal(410, "GONE: older than the journal"),
        _UNAVAILABLE,
    )
    return authenticated(item, config) | _JOB


def cancel_item(config: GatewayConfig) -> Schema:
    """Describes the route that cancels jobs."""
    item = operation(
        "Cancels a job, whatever it waits for; sent again, it has the same answer.",
        json_body(200, "Result", "The job is cancelled."),
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
    # A form has no null, and files, each of which may stand for a member.
    files = {field: TEXT | {"contentMediaType": pipeline.upload_type} for field in pipeline.uploads}
    members = {name: without_null(part) for name, part in schema["properties"].items()}
    form = schema | {"properties": members | files | {MODEL_FIELD: {"enum": models}}}
    for field, member in pipeline.uploads.items():
        form["required"] = [one for one in form.get("required", []) if one != member]
        form["oneOf"] = [{"required": [member]}, {"required": [field]}]
    return parts | {f"{name}.request": schema, f"{name}.form": form}
