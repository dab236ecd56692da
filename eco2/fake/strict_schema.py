"""Checks that a JSON schema is in OpenAI's subset for strict structured output.

Rules: OpenAI's guide "Structured outputs", section on supported schemas. Every object lists all of its
properties as required and allows no others; the root is an object; unknown keywords are refused. `pattern` is
valid at OpenAI, but not supported here, and refused.
"""

from collections.abc import Iterator, Mapping

from eco2.fake.api_error import invalid

Schema = Mapping[str, object]

_ANYWHERE = frozenset({"title", "description", "$defs", "definitions", "$schema"})
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"enum", "const", "format", "minLength", "maxLength"},
    "number": {"enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "integer": {"enum", "const", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
    "boolean": {"enum", "const"},
    "null": {"enum", "const"},
}
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
MAX_DEPTH, MAX_PROPERTIES, MAX_ENUM = 10, 5000, 1000


def check(root: Schema, name: str) -> None:
    """Raises an `ApiError` (400) with the place and the rule, if the schema breaks one."""
    properties = 0
    if root.get("type") != "object" or "anyOf" in root:
        raise invalid_schema(name, "#", "the root must be of type 'object', without 'anyOf'")
    for path, node, depth in subschemas(root, "#", 1):
        problem = broken_rule(root, node)
        if problem:
            raise invalid_schema(name, path, problem)
        properties += len(as_mapping(node.get("properties")))
        if depth > MAX_DEPTH or properties > MAX_PROPERTIES:
            raise invalid_schema(
                name, path, f"over {MAX_DEPTH} levels of nesting or {MAX_PROPERTIES} properties"
            )


def invalid_schema(name: str, path: str, problem: str) -> Exception:
    """Returns the error for a broken rule."""
    message = f"Invalid schema for response_format '{name}': at {path}: {problem}."
    return invalid(message, "response_format", "invalid_json_schema")


def as_mapping(value: object) -> Schema:
    """Returns the value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def resolve(root: Schema, ref: str) -> Schema | None:
    """Returns the target of `#`, `#/$defs/name` or `#/definitions/name`, if it exists."""
    node: object = root
    for step in ref.split("/")[1:]:
        node = as_mapping(node).get(step.replace("~1", "/").replace("~0", "~"))
    return node if ref.startswith("#") and isinstance(node, Mapping) else None


def subschemas(node: Schema, path: str, depth: int) -> Iterator[tuple[str, Schema, int]]:
    """Yields every schema in the tree with its place and depth; references are not followed."""
    yield path, node, depth
    inside = [
        (f"{key}/{name}", child, 0)
        for key in ("$defs", "definitions")
        for name, child in as_mapping(node.get(key)).items()
    ]
    inside += [
        (f"properties/{name}", child, depth + 1) for name, child in as_mapping(node.get("properties")).items()
    ]
    if "items" in node:
        inside.append(("items", node["items"], depth + 1))
    branches = node.get("anyOf")
    if isinstance(branches, list):
        inside += [(f"anyOf/{index}", child, depth) for index, child in enumerate(branches)]
    for step, child, level in inside:
        yield from subschemas(
            child if isinstance(child, Mapping) else {"type": None}, f"{path}/{step}", level
        )


def broken_rule(root: Schema, node: Schema) -> str | None:
    """Returns the first rule that the schema itself breaks, if any."""
    if "$ref" in node:
        return broken_ref_rule(root, node)
    if "anyOf" in node:
        extra = set(node) - _ANYWHERE - {"anyOf"}
        whole = isinstance(node["anyOf"], list) and node["anyOf"]
        return None if whole and not extra else f"'anyOf' must be a list of schemas, without {sorted(extra)}"
    types = node.get("type")
    named = [str(one) for one in types] if isinstance(types, list) else [str(types)]
    if not named or any(one not in _OF_TYPE for one in named):
        return f"'type' must be one of {', '.join(_OF_TYPE)}, not {types!r}"
    allowed = _ANYWHERE | {"type"} | {keyword for one in named for keyword in _OF_TYPE[one]}
    extra = set(node) - allowed
    if extra:
        return f"{', '.join(sorted(extra))} not permitted with type {types!r}"
    return broken_object_rule(node) if "object" in named else broken_value_rule(node, named)


def broken_ref_rule(root: Schema, node: Schema) -> str | None:
    """Returns the rule that a reference breaks, if any."""
    if set(node) - _ANYWHERE - {"$ref"}:
        return "'$ref' cannot stand beside other keywords"
    ref = node["$ref"]
    return (
        None if isinstance(ref, str) and resolve(root, ref) is not None else f"'$ref' {ref!r} points nowhere"
    )


def broken_object_rule(node: Schema) -> str | None:
    """Returns the rule that an object's schema breaks, if any."""
    names = set(as_mapping(node.get("properties")))
    required = node.get("required", [])
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' must be there and be false"
    if not isinstance(required, list) or set(required) != names:
        return "'required' must list every property, and nothing else"
    return None


def broken_value_rule(node: Schema, types: list[str]) -> str | None:
    """Returns the rule that another schema breaks, if any."""
    enum = node.get("enum", [None])
    if not isinstance(enum, list) or not 1 <= len(enum) <= MAX_ENUM:
        return f"'enum' must be a list of 1 to {MAX_ENUM} values"
    if "array" in types and not isinstance(node.get("items"), Mapping):
        return "'items' must be there"
    if node.get("format", "uuid") not in FORMATS:
        return f"'format' must be one of {', '.join(sorted(FORMATS))}"
    return None
