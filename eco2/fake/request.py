"""Parses the bodies of chat completions and embeddings: all fields of OpenAI's API, with their types.

An unknown field, a wrong type or a missing field is a 400 that names the parameter. A field that the
fake does not support (audio, several choices …) is refused, too: otherwise a test could pass that
fails with the real provider.
"""

import re
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from eco2.fake.api_error import INVALID, ApiError, invalid
from eco2.fake.models import family

MAX_DIMENSIONS = 1536
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


class FunctionCall(Struct, forbid_unknown_fields=True):
    name: Name
    arguments: str


class ToolCall(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    id: str
    function: FunctionCall


class Assistant(Struct, forbid_unknown_fields=True, tag_field="role", tag="assistant"):
    content: str | list[TextPart] | None = None
    name: Name | None = None
    tool_calls: list[ToolCall] | None = None
    role = "assistant"


class ToolResult(Struct, forbid_unknown_fields=True, tag_field="role", tag="tool"):
    content: str | list[TextPart]
    tool_call_id: str
    name = None
    role = "tool"


Message = System | Developer | User | Assistant | ToolResult


class FunctionSpec(Struct, forbid_unknown_fields=True):
    name: Name
    parameters: Raw
    description: str = ""
    strict: bool | None = None


class ToolSpec(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: FunctionSpec


class NamedFunction(Struct, forbid_unknown_fields=True):
    name: Name


class NamedTool(Struct, forbid_unknown_fields=True, tag_field="type", tag="function"):
    function: NamedFunction


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
    parallel_tool_calls: bool | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None

    audio: object = None
    function_call: object = None
    functions: object = None
    logit_bias: object = None
    logprobs: bool | None = None
    modalities: object = None
    prediction: object = None
    stop: object = None
    top_logprobs: object = None
    web_search_options: object = None

    @property
    def limit(self) -> int | None:
        """Returns the limit of completion tokens, under either name."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def has_image(self) -> bool:
        """Returns whether a message has an image."""
        return any(isinstance(part, ImagePart) for message in self.messages for part in message.content or ())


class EmbeddingRequest(Struct, forbid_unknown_fields=True):
    """All parameters. `input`: texts; OpenAI also takes tokens, the fake does not."""

    model: str
    input: Annotated[str, Meta(min_length=1)] | Annotated[list[str], Meta(min_length=1, max_length=2048)]
    dimensions: Annotated[int, Meta(ge=1, le=MAX_DIMENSIONS)] = MAX_DIMENSIONS
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """Returns the texts, also where there is one only."""
        return [self.input] if isinstance(self.input, str) else self.input


_REFUSED = (
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "logprobs",
    "modalities",
    "prediction",
    "stop",
    "top_logprobs",
    "web_search_options",
)
_DECODER = msgspec.json.Decoder(ChatRequest)
_EMBEDDING_DECODER = msgspec.json.Decoder(EmbeddingRequest)
Body = TypeVar("Body")
_WHERE = re.compile(r"^(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?P<problem>contains unknown|missing required) field `(?P<field>[^`]*)`$")


def parse(body: bytes) -> ChatRequest:
    """Parses the request. Raises an `ApiError` (400)."""
    request = decode(_DECODER, body)
    check_supported(request)
    return request


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Parses a request for vectors. Raises an `ApiError` (400)."""
    request = decode(_EMBEDDING_DECODER, body)
    if not all(request.texts):
        raise invalid("'input' cannot have an empty string.", "input", "invalid_value")
    return request


def decode(decoder: msgspec.json.Decoder[Body], body: bytes) -> Body:
    """Decodes a body. Raises an `ApiError` (400)."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise explain(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        message = f"We could not parse the JSON body of your request ({error}). Send one JSON object."
        raise ApiError(400, message, INVALID) from error


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
    check_tools(request)
    check_reasoning(request)


def check_tools(request: ChatRequest) -> None:
    """Checks tools, the choice among them, and that each call of a tool is followed by its results."""
    tools = request.tools or []
    names = [tool.function.name for tool in tools]
    if any(not tool.function.strict for tool in tools):
        message = "The fake provider fits strict schemas only: set 'strict' to true."
        raise invalid(message, "tools[0].function.strict", "unsupported_value")
    chosen = request.tool_choice.function.name if isinstance(request.tool_choice, NamedTool) else None
    if chosen not in (None, *names) or (request.tool_choice is not None and not names):
        raise invalid(
            "'tool_choice' is only allowed for 'tools' that are there.", "tool_choice", "invalid_value"
        )
    waiting = list[str]()
    for index, said in enumerate(request.messages):
        if isinstance(said, ToolResult):
            if said.tool_call_id not in waiting:
                text = (
                    "messages with role 'tool' must follow a message with the 'tool_calls' that they answer"
                )
                raise invalid(f"Invalid parameter: {text}.", f"messages[{index}].role", "invalid_value")
            waiting.remove(said.tool_call_id)
        elif waiting:
            break
        elif isinstance(said, Assistant):
            waiting = [call.id for call in said.tool_calls or ()]
            if said.content is None and not waiting:
                raise invalid("Give 'content' or 'tool_calls'.", f"messages[{index}].content", "invalid_type")
    if waiting:
        text = "an assistant message with 'tool_calls' must be followed by messages that answer each of them"
        raise invalid(f"Invalid parameter: {text}.", "messages", "invalid_value")


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
