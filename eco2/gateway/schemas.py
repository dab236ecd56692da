"""What the gateway sends, as JSON schemas: one per shape, the same for every pipeline."""

from typing import Any

Schema = dict[str, Any]

STATUSES = ["started", "completed", "failed", "cancelled"]


def ref(name: str) -> Schema:
    """A reference to the schema of that name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def closed(**properties: Schema) -> Schema:
    """An object with exactly these members."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def open_(**properties: Schema) -> Schema:
    """An object with at least these members."""
    return closed(**properties) | {"additionalProperties": True}


def integer(least: int, most: int | None = None) -> Schema:
    """A whole number within bounds."""
    return {"type": "integer", "minimum": least} | ({} if most is None else {"maximum": most})


TEXT: Schema = {"type": "string"}
UUID: Schema = {"type": "string", "format": "uuid"}
OBJECT: Schema = {"type": "object"}
PROGRESS = integer(0, 100)

SCHEMAS: dict[str, Schema] = {
    "Problem": open_(detail=TEXT, code={"type": "string", "pattern": "^[A-Z][A-Z0-9_]*$"}),
    "Accepted": closed(
        job_id=UUID,
        status={"enum": ["queued", "running", "completed", "failed", "cancelled"]},
        stream_url={"type": "string", "format": "uri-reference"},
        result_url={"type": "string", "format": "uri-reference"},
    ),
    "Processing": closed(status={"const": "processing"}, message=TEXT, current_stage=TEXT, progress=PROGRESS),
    "Error": closed(code=TEXT, message=TEXT),
    "Result": open_(
        task_id=UUID,
        status={"enum": ["completed", "failed", "cancelled"]},
        message=TEXT,
        error={"anyOf": [ref("Error"), {"type": "null"}]},
        usage={"type": "object", "additionalProperties": OBJECT},
    ),
    "Event": closed(
        job_id=UUID,
        stage=TEXT,
        status={"enum": STATUSES},
        seq=integer(0),
        ts={"type": "number"},
        progress=PROGRESS,
        result=OBJECT,
    )
    | {"required": ["job_id", "stage", "status", "seq", "ts", "progress"]},
    "Delta": closed(text=TEXT),
    "Truncated": closed(job_id=UUID),
    "Health": closed(status={"const": "ok"}),
    "Ready": closed(status={"const": "ready"}),
    "NotReady": closed(status={"const": "not ready"}, reasons={"type": "array", "items": TEXT}),
}
"""By name. `Result` has the pipeline's own members besides."""
