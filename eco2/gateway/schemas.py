"""JSON schemas of the gateway's answers, the same for every pipeline; parts of an OpenAPI document."""

from typing import Any

Schema = dict[str, Any]
Response = tuple[str, Schema]
"""A status and the description of its response."""


def ref(name: str) -> Schema:
    """Refers to the schema of that name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(**properties: Schema) -> Schema:
    """Describes an object with exactly these members."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def open_(**properties: Schema) -> Schema:
    """Describes an object with at least these members."""
    return closed(**properties) | {"additionalProperties": True}


def integer(least: int, most: int | None = None) -> Schema:
    """Describes a whole number within bounds."""
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


TEXT: Schema = {"type": "string"}
UUID: Schema = {"type": "string", "format": "uuid"}
OBJECT: Schema = {"type": "object"}
PROGRESS = integer(0, 100)

ACCEPTED: dict[str, Schema] = {
    "job_id": UUID,
    "status": {"enum": ["queued", "running", "completed", "failed", "cancelled"]},
    "stream_url": {"type": "string", "format": "uri-reference"},
    "result_url": {"type": "string", "format": "uri-reference"},
}
PROBLEM: dict[str, Schema] = {
    "detail": TEXT,
    "code": {"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"},
}

SCHEMAS: dict[str, Schema] = {
    "Problem": open_(**PROBLEM),
    "Accepted": closed(**ACCEPTED),
    "Answer": {
        "oneOf": [
            closed(http_status={"enum": [200, 202]}, **ACCEPTED),
            open_(http_status=integer(400, 599), **PROBLEM),
        ]
    },
    "Processing": closed(status={"const": "processing"}, message=TEXT, current_stage=TEXT, progress=PROGRESS),
    "Error": closed(code=TEXT, message=TEXT),
    "Usage": closed(
        model=TEXT,
        calls=integer(1),
        input_tokens=integer(0),
        cached_tokens=integer(0),
        output_tokens=integer(0),
        cost_usd={"type": ["string", "null"]},
    ),
    "Result": open_(
        task_id=UUID,
        status={"enum": ["completed", "failed", "cancelled"]},
        message=TEXT,
        error={"anyOf": [ref("Error"), {"type": "null"}]},
        usage={"type": "object", "additionalProperties": ref("Usage")},
    ),
    "Delta": closed(text=TEXT, call=TEXT) | {"required": ["text"]},
    "Reset": closed(call=TEXT) | {"required": []},
    "Branches": closed(done=integer(0), total=integer(2)),
    "Retrying": closed(job_id=UUID, stage=TEXT, attempt=integer(2), eta_seconds=integer(0)),
    "Truncated": closed(job_id=UUID),
    "Health": closed(status={"const": "ok"}),
    "Ready": closed(status={"const": "ready"}),
    "NotReady": closed(status={"const": "not ready"}, reasons={"type": "array", "items": TEXT}),
}
"""By name. `Result` also has the pipeline's own members."""


def event(stage: str, status: str | list[str], result: Schema | None = None) -> Schema:
    """Describes the data of a durable event."""
    members: dict[str, Schema] = {
        "job_id": UUID,
        "stage": {"const": stage},
        "status": {"enum": status} if isinstance(status, list) else {"const": status},
        "seq": integer(0),
        "ts": {"type": "number"},
        "progress": PROGRESS,
    }
    return closed(**members, **({} if result is None else {"result": result}))


def without_null(schema: Schema) -> Schema:
    """Describes the same values but null."""
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return schema
    others = [kind for kind in kinds if kind != "null"]
    return schema | {"type": others[0] if len(others) == 1 else others}


def without_default(schema: Schema) -> Schema:
    """Describes the same values; what stands for a missing one is not said."""
    return {key: value for key, value in schema.items() if key != "default"}


def operation(summary: str, *responses: Response, method: str = "get") -> Schema:
    """Describes a path with one method."""
    return {method: {"summary": summary, "responses": dict(responses)}}


def json_body(
    status: int, name: str | None, description: str = "", headers: Schema | None = None
) -> Response:
    """Describes a response with the schema of that name; None: with any object."""
    response = content("application/json", ref(name) if name else OBJECT)
    response["description"] = description or name or "JSON"
    return str(status), response | ({"headers": headers} if headers else {})


def refusal(status: int, description: str, headers: Schema | None = None) -> Response:
    """Describes a response of `eco2.gateway.problem`."""
    return json_body(status, "Problem", description, headers)


def content(media_type: str, schema: Schema) -> Schema:
    """Describes a body of one type."""
    return {"description": media_type, "content": {media_type: {"schema": schema}}}


def header(name: str, description: str, schema: Schema) -> Schema:
    """Describes a header of a request."""
    return {"name": name, "in": "header", "description": description, "schema": schema}
