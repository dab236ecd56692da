"""Parses the body of `POST /v1/chat/completions`: all fields of OpenAI's API, with their types.

An unknown field, a wrong type or a missing field is a 400 that names the parameter. A field that the
fake does not support (tools, audio, several choices …) is refused, too: otherwise a test could pass that
fails with the real provider.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from eco2.fake.api_error import INVALID, ApiError, invalid
from eco2.fake.models import family

Positive = Annotated[int, Meta(ge=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class ImageUrl(Struct, forbid_unknown_fields=True):
    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class TextPart(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    text: str


class ImagePart(Struct, forbid_unknown_fields=True, tag_field="type", tag="image_url"):
    image_url: ImageUrl


class System(Struct, forbid_unknown_fields=True, tag_field="role", tag="system"):
    content: str | list[TextPart]
    name: Name | None = None
    role = "system"


class Developer(Struct, forbid_unknown_fields=True, tag_field="role", tag="developer"):
    content: str | list[TextPart]
    name: Name | None = None
    role = "developer"


class User(Struct, forbid_unknown_fields=True, tag_field="role", tag="user"):
    content: str | list[TextPart | ImagePart]
    name: Name | None = None
    role = "user"


class Assistant(Struct, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    content: str | list[TextPart]
    name: Name | None = None
    role = "assistant"


Message = System | Developer | User | Assistant


class SchemaSpec(Struct, forbid_unknown_fields=True):
    name: Name
    schema: Raw
    strict: bool | None = None
    description: str | None = None


class Text(Struct, forbid_unknown_fields=True, tag_field="type", tag="text"):
    pass


class JsonObject(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_object"):
    pass


class JsonSchema(Struct, forbid_unknown_fields=True, tag_field="type", tag="json_schema"):
    json_schema: SchemaSpec


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(Struct, forbid_unknown_fields=True):
    """All parameters; those of the last block are refused unless they are empty."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: Positive | None = None
    max_tokens: Positive | None = None
    response_format: Text | JsonObject | JsonSchema | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    reasoning_effort: str | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    seed: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    store: bool | None = None
    metadata: dict[str, str] | None = None
    n: Positive | None = None

    audio: object = None
    function_call: object = None
    functions: object = None
    logit_bias: object = None
    logprobs: bool | None = None
    modalities: object = None
    parallel_tool_calls: object = None
    prediction: object = None
    stop: object = None
    tool_choice: object = None
    tools: object = None
    top_logprobs: object = None
    web_search_options: object = None

    @property
    def limit(self) -> int | None:
        """Returns the limit of completion tokens, under either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def has_image(self) -> bool:
        """Returns whether a message has an image."""
        return any(isinstance(part, ImagePart) for message in self.messages for part in message.content)


_REFUSED = (
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "modalities",
    "parallel_tool_calls",
    "prediction",
    "stop",
    "tool_choice",
    "tools",
    "top_logprobs",
    "web_search_options",
)
_DECODER = msgspec.json.Decoder(ChatRequest)
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<problem>contains unknown|missing required) field `(?P<field>[^`]*)`$")


def parse(body: bytes) -> ChatRequest:
    """Parses the request. Raises an `ApiError` (400)."""
    try:
        request = _DECODER.decode(body)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"We could not parse the JSON body of your request ({error}). Send one JSON object."
        raise ApiError(400, message, INVALID) from error
    check_supported(request)
    return request


def explain(text: str) -> ApiError:
    """Translates msgspec's message about the first error into OpenAI's parameter and code."""
    match = _WHERE.match(text)
    what, path = (match["what"], match["path"] or "") if match else (text, "")
    field = _FIELD.match(what)
    if field:
        param = f"{path}.{field['field']}" if path else field["field"]
        if field["problem"] == "missing required":
            return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")
        return invalid(f"Unknown parameter: '{param}'.", param, "unknown_parameter")
    if what.startswith("Expected") and ", got" in what:
        return invalid(f"Invalid type for '{path}': {what}.", path or None, "invalid_type")
    return invalid(f"Invalid value for '{path}': {what}.", path or None, "invalid_value")


def check_supported(request: ChatRequest) -> None:
    """Checks combinations, and parameters that the model or the fake does not support."""
    for param in _REFUSED:
        if getattr(request, param) not in (None, False):
            message = f"Unsupported parameter: '{param}' is not supported by the fake provider."
            raise invalid(message, param, "unsupported_parameter")
    if (request.n or 1) > 1:
        raise invalid("Unsupported value: 'n' must be 1 with the fake provider.", "n", "unsupported_value")
    if request.stream_options is not None and not request.stream:
        raise invalid(
            "'stream_options' is only allowed when 'stream' is true.", "stream_options", "invalid_value"
        )
    if request.max_tokens is not None and request.max_completion_tokens is not None:
        raise invalid(
            "Give 'max_tokens' or 'max_completion_tokens', not both.", "max_tokens", "invalid_value"
        )
    match request.response_format:
        case JsonObject():
            message = "Unsupported value: the fake provider answers 'text' and 'json_schema' only."
            raise invalid(message, "response_format.type", "unsupported_value")
        case JsonSchema(json_schema=spec) if not spec.strict:
            message = "The fake provider fits strict schemas only: set 'strict' to true."
            raise invalid(message, "response_format.json_schema.strict", "unsupported_value")
    check_reasoning(request)


def check_reasoning(request: ChatRequest) -> None:
    """Checks the parameters that reasoning models restrict."""
    efforts, effort = family(request.model).efforts, request.reasoning_effort
    if effort is not None and effort not in efforts:
        allowed = ", ".join(efforts) or "no value"
        message = f"Unsupported value: 'reasoning_effort' takes {allowed} with this model, not '{effort}'."
        raise invalid(message, "reasoning_effort", "unsupported_value")
    if not efforts:
        return
    if request.max_tokens is not None:
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' with this model."
        raise invalid(message, "max_tokens", "unsupported_parameter")
    for param in ("temperature", "top_p"):
        if (effort or efforts[0]) != "none" and getattr(request, param) not in (None, 1):
            message = f"Unsupported value: '{param}' takes only 1 while this model reasons."
            raise invalid(message, param, "unsupported_value")
