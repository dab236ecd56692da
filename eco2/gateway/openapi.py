"""The OpenAPI 3.1 document: what the routes take and answer, built from the pipelines' input models.

It guarantees nothing by itself; tests send what it describes, and what it does not, and compare.
"""

from collections.abc import Sequence
from typing import Any

from eco2 import __version__
from eco2.gateway.config import GatewayConfig
from eco2.gateway.owner import OWNER_HEADER
from eco2.gateway.schemas import OBJECT, SCHEMAS, TEXT, UUID, Schema, closed, integer, ref
from eco2.gateway.submission import LONGEST_KEY, MODEL_FIELD
from eco2.job import JSON
from eco2.pipeline import AnyPipeline

Node = dict[str, Any]

_KEY = TEXT | {"pattern": f"^[ -~]{{0,{LONGEST_KEY}}}$"}
_RETRY = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}
_STREAM = {
    name: {"required": True, "schema": {"const": value}}
    for name, value in {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}.items()
}
_MODEL = "UNSUPPORTED_MODEL (lists `supported_models`)"
_JOB = {"name": "job_id", "in": "path", "required": True, "schema": UUID}


def document(pipelines: Sequence[AnyPipeline], config: GatewayConfig, prefixes: Sequence[str]) -> JSON:
    """The description of all routes; those of the pipelines exist under each of `prefixes`."""
    schemas, paths = dict(SCHEMAS), _own_paths()
    for pipeline in pipelines:
        schemas |= _requests(pipeline, config)
        paths |= _paths(pipeline, config)
    components: Node = {"schemas": schemas}
    if config.auth == "header":
        components["securitySchemes"] = {"owner": {"type": "apiKey", "in": "header", "name": OWNER_HEADER}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Eco²", "version": __version__},
        "servers": [{"url": prefix or "/"} for prefix in prefixes],
        "paths": paths,
        "components": components,
    }


def _own_paths() -> Node:
    ready = [_json(200, "Ready"), _json(503, "NotReady")]
    paths = {
        "/openapi.json": _get("This document.", _json(200, None)),
        "/healthz": _get("Whether the process is alive.", _json(200, "Health")),
        "/readyz": _get("Whether it can do its work now.", *ready),
    }
    only_root = [{"url": "/"}]
    return {
        path: item if path == "/openapi.json" else item | {"servers": only_root}
        for path, item in paths.items()
    }


def _paths(pipeline: AnyPipeline, config: GatewayConfig) -> Node:
    root = f"/{pipeline.name}"
    return {
        root: {"post": _submission(pipeline, config)},
        f"{root}/{{job_id}}/events": _events([stage.name for stage in pipeline.stages], config),
        f"{root}/{{job_id}}/result": _result(config),
        **{
            f"{root}/{path}": _get(f"{path} of {pipeline.name}.", _json(200, None))
            for path in pipeline.routes
        },
    }


def _submission(pipeline: AnyPipeline, config: GatewayConfig) -> Node:
    form: Node = {"schema": ref(f"{pipeline.name}.form")}
    own = dict(pipeline.codes)
    if pipeline.uploads:
        form["encoding"] = {field: {"contentType": pipeline.upload_type} for field in pipeline.uploads}
    return {
        "summary": f"Accepts a job of {pipeline.name}.",
        "parameters": [
            _header("Idempotency-Key", "Requests with the same key and body are one job.", _KEY),
            _header("X-Idempotency-Key", "The same, where the other is missing.", _KEY),
            _header("traceparent", "W3C trace context.", TEXT),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref(f"{pipeline.name}.request")},
                "multipart/form-data": form,
            },
        },
        "responses": dict(
            [
                _json(202, "Accepted", "It will end, whatever crashes."),
                _json(200, "Accepted", "The job that this key named before."),
                _problem(400, f"{own.pop(400)}, {_MODEL}" if 400 in own else _MODEL),
                _problem(403, "CROSS_SITE: a page of another site sent it"),
                _problem(408, "REQUEST_TIMEOUT: the body came too slowly"),
                _problem(413, own.pop(413, "REQUEST_TOO_LARGE")),
                *(_problem(status, code) for status, code in own.items()),
                _problem(422, "INVALID_REQUEST, IDEMPOTENCY_MISMATCH"),
                _problem(429, "OVER_CAPACITY: too many at once", _RETRY),
                *_always(config),
                *([_problem(503, "BROKER_UNAVAILABLE, SPEND_LIMIT", _RETRY)] if config.daily_usd else []),
            ]
        ),
        **_security(config),
    }


def _events(stages: Sequence[str], config: GatewayConfig) -> Node:
    stream = _content("text/event-stream", _message(stages)) | {"headers": _STREAM}
    stream["description"] = (
        "Server-sent events; the schema is of one of them. Stages, `queued` and `done` have an `id` and an "
        "Event as data, `<stage>.delta` has a Delta, `truncated` a Truncated, both without `id`. `retry` "
        "comes with the first. Under `/api/v1` an unnamed message may follow `done`: docs/events.md."
    )
    item = _get(
        "The job's events, as they come.",
        ("200", stream),
        ("204", {"description": "The client has seen all."}),
        _problem(404, "NOT_FOUND"),
        _problem(410, "GONE: older than the journal"),
        _problem(429, "TOO_MANY_STREAMS: of this job or owner", _RETRY),
        *_always(config),
    )
    item["get"] |= _security(config) | {
        "parameters": [
            _header("Last-Event-ID", "Only what came after this event.", TEXT),
            *(
                {"name": name, "in": "query", "description": "The same.", "schema": TEXT}
                for name in ("lastEventId", "last_event_id")
            ),
        ]
    }
    return item | {"parameters": [_JOB]}


def _message(stages: Sequence[str]) -> Schema:
    durable = {"enum": ["queued", *stages, "done"]}
    passing = {"enum": [*(f"{stage}.delta" for stage in stages), "truncated"]}
    kinds = [closed(event=durable, data=TEXT, id=TEXT), closed(event=passing, data=TEXT), closed(data=TEXT)]
    for kind in kinds:
        kind["properties"]["retry"] = integer(0)
    return {"oneOf": kinds}


def _result(config: GatewayConfig) -> Node:
    item = _get(
        "The result of a job that has ended.",
        _json(200, "Result"),
        _json(202, "Processing", "It has not ended.", _RETRY),
        _problem(404, "NOT_FOUND"),
        _problem(410, "GONE: older than the journal"),
        *_always(config),
    )
    item["get"] |= _security(config)
    return item | {"parameters": [_JOB]}


def _always(config: GatewayConfig) -> list[tuple[str, Node]]:
    unavailable = _problem(503, "BROKER_UNAVAILABLE", _RETRY)
    return [unavailable, _problem(401, "UNAUTHORIZED")] if config.auth == "header" else [unavailable]


def _security(config: GatewayConfig) -> Node:
    return {"security": [{"owner": []}]} if config.auth == "header" else {}


def _requests(pipeline: AnyPipeline, config: GatewayConfig) -> dict[str, Schema]:
    """What may be submitted, as JSON and as a form, and the schemas that these refer to."""
    name = pipeline.name
    schema = pipeline.input.model_json_schema(ref_template=f"#/components/schemas/{name}.{{model}}")
    parts = {f"{name}.{key}": part for key, part in schema.pop("$defs", {}).items()}
    models = [*config.models, ""]
    schema["properties"] = schema.get("properties", {}) | {MODEL_FIELD: {"enum": [*models, None]}}
    return parts | {f"{name}.request": schema, f"{name}.form": _form(schema, pipeline, models)}


def _form(schema: Schema, pipeline: AnyPipeline, models: list[str]) -> Schema:
    """The same with files, each of which may stand for a member."""
    files = {field: TEXT | {"contentMediaType": pipeline.upload_type} for field in pipeline.uploads}
    members = {name: _filled(part) for name, part in schema["properties"].items()}
    form = schema | {"properties": members | files | {MODEL_FIELD: {"enum": models}}}
    for field, member in pipeline.uploads.items():
        form["required"] = [one for one in form.get("required", []) if one != member]
        form["oneOf"] = [{"required": [member]}, {"required": [field]}]
    return form


def _filled(schema: Schema) -> Schema:
    """The same without null, which a form cannot say."""
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return schema
    filled = [kind for kind in kinds if kind != "null"]
    return schema | {"type": filled[0] if len(filled) == 1 else filled}


def _get(summary: str, *responses: tuple[str, Node]) -> Node:
    return {"get": {"summary": summary, "responses": dict(responses)}}


def _json(
    status: int, name: str | None, description: str = "", headers: Node | None = None
) -> tuple[str, Node]:
    response = _content("application/json", ref(name) if name else OBJECT)
    response["description"] = description or name or "JSON"
    return str(status), response | ({"headers": headers} if headers else {})


def _problem(status: int, description: str, headers: Node | None = None) -> tuple[str, Node]:
    return _json(status, "Problem", description, headers)


def _content(media_type: str, schema: Schema) -> Node:
    return {"description": media_type, "content": {media_type: {"schema": schema}}}


def _header(name: str, description: str, schema: Schema) -> Node:
    return {"name": name, "in": "header", "description": description, "schema": schema}
