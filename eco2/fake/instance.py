"""Makes a value that fits a strict JSON schema, as the fake's answer. The same draws give the same value.

Guarantees, for every schema that `strict_schema.check` accepts: enums, constants, bounds, formats,
references and recursion are respected; a schema that only an infinite value fits is refused.
"""

import math
from collections.abc import Mapping, Sequence
from random import Random

from eco2.fake.api_error import invalid
from eco2.fake.strict_schema import Schema, resolve

WORDS = (
    "페트병",
    "우유팩",
    "종이상자",
    "유리병",
    "알루미늄캔",
    "비닐봉투",
    "스티로폼",
    "건전지",
    "헌옷",
    "프라이팬",
)
FORMATTED = {
    "date-time": "2026-01-31T09:30:00Z",
    "time": "09:30:00Z",
    "date": "2026-01-31",
    "duration": "PT90S",
    "email": "eco@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "uuid": "0190a5b2-7c1e-7d3a-9f44-5b6c7d8e9f00",
}
_DEEP = 4  # levels below which the shallowest alternative is taken


def check_finite(root: Schema, name: str) -> None:
    """Raises an ApiError (400) if the schema recurses without an end."""
    if height(root, root, frozenset()) == math.inf:
        message = (
            f"Invalid schema for response_format '{name}': it recurses without end. Allow null or a list."
        )
        raise invalid(message, "response_format", "invalid_json_schema")


def instance(root: Schema, draws: Random) -> object:
    """Returns a value that fits `root`, which must have passed both checks."""
    return pick_value(root, root, draws, 0)


def height(root: Schema, node: Schema, seen: frozenset[str]) -> float:
    """Returns the depth of the shallowest value that fits `node`; infinite if there is none."""
    ref = node.get("$ref")
    if isinstance(ref, str):
        return math.inf if ref in seen else height(root, target_of(root, ref), seen | {ref})
    if "anyOf" in node:
        return min(height(root, branch, seen) for branch in as_schemas(node["anyOf"]))
    types = types_of(node)
    if any(one not in ("object", "array") for one in types):
        return 0
    if "array" in types:
        return 0 if not _int(node, "minItems", 0) else 1 + height(root, as_schema(node["items"]), seen)
    inner = [height(root, as_schema(child), seen) for child in properties_of(node).values()]
    return 1 + max(inner, default=0)


def pick_value(root: Schema, node: Schema, draws: Random, depth: int) -> object:
    """Draws a value that fits `node`."""
    if "$ref" in node:
        return pick_value(root, target_of(root, str(node["$ref"])), draws, depth)
    if "anyOf" in node:
        branches = as_schemas(node["anyOf"])
        shallowest = min(branches, key=lambda one: height(root, one, frozenset()))
        return pick_value(root, shallowest if depth >= _DEEP else draws.choice(branches), draws, depth)
    if "const" in node:
        return node["const"]
    enum = node.get("enum")
    if isinstance(enum, list):
        return draws.choice(enum)
    types = types_of(node)
    kind = (
        min(types, key=lambda one: {"object": 2, "array": 1}.get(one, 0))
        if depth >= _DEEP
        else draws.choice(types)
    )
    match kind:
        case "object":
            return {
                key: pick_value(root, as_schema(child), draws, depth + 1)
                for key, child in properties_of(node).items()
            }
        case "array":
            return pick_list(root, node, draws, depth)
        case _:
            return pick_scalar(kind, node, draws)


def pick_list(root: Schema, node: Schema, draws: Random, depth: int) -> list[object]:
    """Draws a list that fits `node`."""
    low = _int(node, "minItems", 0)
    high = min(_int(node, "maxItems", low + 3), low + max(0, 3 - depth))  # the deeper, the shorter
    length = draws.randint(min(max(low, 1), high), high)
    return [pick_value(root, as_schema(node["items"]), draws, depth + 1) for _ in range(length)]


def pick_scalar(kind: str, node: Schema, draws: Random) -> object:
    """Draws a value of a simple type that fits `node`."""
    match kind:
        case "string":
            return pick_string(node, draws)
        case "integer" | "number":
            return pick_number(node, draws, whole=kind == "integer")
        case "boolean":
            return draws.random() < 0.5
        case _:
            return None


def pick_string(node: Schema, draws: Random) -> str:
    """Draws a string that fits `node`."""
    if "format" in node:
        return FORMATTED[str(node["format"])]
    text = draws.choice(WORDS)
    while len(text) < _int(node, "minLength", 0):
        text += " " + draws.choice(WORDS)
    return text[: _int(node, "maxLength", len(text))]


def pick_number(node: Schema, draws: Random, whole: bool) -> float:
    """Draws a number within the bounds: a multiple of `multipleOf` (of 1 for integers), else any."""
    step = _float(node, "multipleOf") or (1.0 if whole else None)
    low, high = bounds(node, step or 0.01)
    if step is None:
        if low == high:
            return low
        exact = low + (high - low) * (0.001 + 0.998 * draws.random())
        return next((short for short in (round(exact, 2), round(exact, 4)) if low < short < high), exact)
    first = math.floor(low / step) + 1 if low == _float(node, "exclusiveMinimum") else math.ceil(low / step)
    last = math.ceil(high / step) - 1 if high == _float(node, "exclusiveMaximum") else math.floor(high / step)
    if first > last:
        raise invalid(f"No number fits {dict(node)} in the schema.", "response_format", "invalid_json_schema")
    pick = draws.randint(first, last) * step
    return round(pick) if whole else round(pick, 10)


def bounds(node: Schema, step: float) -> tuple[float, float]:
    """Returns the bounds, inclusive or not; without one of them, 100 steps apart, from 0 if possible."""
    lows = [bound for key in ("minimum", "exclusiveMinimum") if (bound := _float(node, key)) is not None]
    highs = [bound for key in ("maximum", "exclusiveMaximum") if (bound := _float(node, key)) is not None]
    high = min(highs, default=max(lows, default=0.0) + 100 * step)
    low = max(lows, default=min(0.0, high - 100 * step) if highs else 0.0)
    if low > high:
        raise invalid(f"No number fits {dict(node)} in the schema.", "response_format", "invalid_json_schema")
    return low, high


def types_of(node: Schema) -> Sequence[str]:
    """Returns the types that `node` allows."""
    types = node["type"]
    return [str(one) for one in types] if isinstance(types, list) else [str(types)]


def properties_of(node: Schema) -> Schema:
    """Returns the properties of an object's schema."""
    return as_schema(node.get("properties", {}))


def as_schemas(value: object) -> list[Schema]:
    """Returns the schemas of a list."""
    return [as_schema(one) for one in value] if isinstance(value, list) else []


def as_schema(value: object) -> Schema:
    """Returns the value as a schema. Raises `TypeError` if it is none."""
    if isinstance(value, Mapping):
        return value
    raise TypeError("a schema was expected here: run strict_schema.check first")


def target_of(root: Schema, ref: str) -> Schema:
    """Returns the schema that a `$ref` names."""
    return as_schema(resolve(root, ref))


def _int(node: Schema, key: str, default: int) -> int:
    value = node.get(key, default)
    return value if isinstance(value, int) else default


def _float(node: Schema, key: str) -> float | None:
    value = node.get(key)
    return float(value) if isinstance(value, int | float) else None
