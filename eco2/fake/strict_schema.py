"""Is this JSON schema in the subset that OpenAI takes for strict structured output?

Rules: OpenAI's guide "Structured outputs", section on supported schemas. Every object lists all of its
properties as required and allows no others; the root is an object; unknown keywords are refused. `pattern` is
real but not acted out here, and refused.
"""

from collections.abc import Iterator, Mapping

from eco2.fake.refusal import invalid

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
    """Raises a Refusal (400) that names the place and the rule; returns if the schema will do."""
    properties = 0
    if root.get("type") != "object" or "anyOf" in root:
        raise _broken(name, "#", "the root must be of type 'object', without 'anyOf'")
    for path, node, depth in _nodes(root, "#", 1):
        problem = _problem(root, node)
        if problem:
            raise _broken(name, path, problem)
        properties += len(_mapping(node.get("properties")))
        if depth > MAX_DEPTH or properties > MAX_PROPERTIES:
            raise _broken(name, path, f"over {MAX_DEPTH} levels of nesting or {MAX_PROPERTIES} properties")


def _broken(name: str, path: str, problem: str) -> Exception:
    message = f"Invalid schema for response_format '{name}': at {path}: {problem}."
    return invalid(message, "response_format", "invalid_json_schema")


def _mapping(value: object) -> Schema:
    return value if isinstance(value, Mapping) else {}


def resolve(root: Schema, ref: str) -> Schema | None:
    """What `#`, `#/$defs/name` or `#/definitions/name` points to, or None."""
    node: object = root
    for step in ref.split("/")[1:]:
        node = _mapping(node).get(step.replace("~1", "/").replace("~0", "~"))
    return node if ref.startswith("#") and isinstance(node, Mapping) else None


def _nodes(node: Schema, path: str, depth: int) -> Iterator[tuple[str, Schema, int]]:
    """Every schema in the tree, references not followed, with its place and its level of nesting."""
    yield path, node, depth
    inside = [
        (f"{key}/{name}", child, 0) for key in ("$defs", "definitions") for name, child in _items(node, key)
    ]
    inside += [(f"properties/{name}", child, depth + 1) for name, child in _items(node, "properties")]
    if "items" in node:
        inside.append(("items", node["items"], depth + 1))
    branches = node.get("anyOf")
    if isinstance(branches, list):
        inside += [(f"anyOf/{index}", child, depth) for index, child in enumerate(branches)]
    for step, child, level in inside:
        yield from _nodes(child if isinstance(child, Mapping) else {"type": None}, f"{path}/{step}", level)


def _items(node: Schema, key: str) -> list[tuple[str, object]]:
    return list(_mapping(node.get(key)).items())


def _problem(root: Schema, node: Schema) -> str | None:
    """The first rule that one schema breaks, itself, not its children."""
    if "$ref" in node:
        return _ref_problem(root, node)
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
    return _object_problem(node) if "object" in named else _value_problem(node, named)


def _ref_problem(root: Schema, node: Schema) -> str | None:
    if set(node) - _ANYWHERE - {"$ref"}:
        return "'$ref' cannot stand beside other keywords"
    ref = node["$ref"]
    return (
        None if isinstance(ref, str) and resolve(root, ref) is not None else f"'$ref' {ref!r} points nowhere"
    )


def _object_problem(node: Schema) -> str | None:
    names = set(_mapping(node.get("properties")))
    required = node.get("required", [])
    if node.get("additionalProperties") is not False:
        return "'additionalProperties' must be there and be false"
    if not isinstance(required, list) or set(required) != names:
        return "'required' must list every property, and nothing else"
    return None


def _value_problem(node: Schema, types: list[str]) -> str | None:
    enum = node.get("enum", [None])
    if not isinstance(enum, list) or not 1 <= len(enum) <= MAX_ENUM:
        return f"'enum' must be a list of 1 to {MAX_ENUM} values"
    if "array" in types and not isinstance(node.get("items"), Mapping):
        return "'items' must be there"
    if node.get("format", "uuid") not in FORMATS:
        return f"'format' must be one of {', '.join(sorted(FORMATS))}"
    return None
