"""Encodes an answer: one `chat.completion`, its chunks as server-sent events, or vectors."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import msgspec

from eco2.call import Vectors
from eco2.fake.content import Content

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class ReportedUsage:
    """The tokens that an answer reports."""

    prompt: int
    completion: int
    cached: int

    def json(self) -> dict[str, object]:
        """Returns the `usage` object."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


@dataclass(frozen=True, slots=True)
class Answer:
    """A decided answer. `created`: Unix seconds. `tool`: the one that it calls; `content`: the arguments."""

    id: str
    created: int
    model: str
    content: Content
    usage: ReportedUsage
    include_usage: bool
    tool: str | None = None

    @property
    def finish_reason(self) -> str:
        """Returns `length` if `max_completion_tokens` cut the answer."""
        if not self.content.complete:
            return "length"
        return "stop" if self.tool is None else "tool_calls"

    def _head(self, kind: str) -> dict[str, object]:
        head: dict[str, object] = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }
        return head | {"service_tier": "default", "system_fingerprint": "fp_eco2_fake"}

    def body(self) -> bytes:
        """Encodes the answer to a call that is not streamed."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": self.content.text,
            "refusal": None,
            "annotations": [],
        }
        if self.tool is not None:
            message["content"] = None
            message["tool_calls"] = [self._tool_call(self.content.text)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return msgspec.json.encode(
            self._head("chat.completion") | {"choices": [choice], "usage": self.usage.json()}
        )

    def _tool_call(self, arguments: str) -> dict[str, object]:
        function = {"name": self.tool, "arguments": arguments}
        return {"id": f"call_{self.id.removeprefix('chatcmpl-')}", "type": "function", "function": function}

    def writes(self) -> list[bytes]:
        """Encodes one write per piece. The first also opens the message; the last also ends the stream."""
        head = msgspec.json.encode(self._head("chat.completion.chunk"))[:-1]
        tail = b',"logprobs":null,"finish_reason":null}]'
        tail += b',"usage":null}\n\n' if self.include_usage else b"}\n\n"
        opened = b"data: " + head + b',"choices":[{"index":0,"delta":'
        start, end = opened + b'{"content":', b"}"
        role = b'{"role":"assistant","content":"","refusal":null}'
        if self.tool is not None:
            start = opened + b'{"tool_calls":[{"index":0,"function":{"arguments":'
            opening = {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"index": 0, **self._tool_call("")}],
            }
            role, end = msgspec.json.encode(opening), b"}}]}"
        writes = [start + msgspec.json.encode(piece) + end + tail for piece in self.content.pieces]
        writes[0] = b"data: " + head + b',"choices":[{"index":0,"delta":' + role + tail + writes[0]
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish_reason}
        last = self._head("chat.completion.chunk") | {"choices": [choice]}
        if self.include_usage:
            usage = self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage.json()}
            writes[-1] += sse_event(last | {"usage": None}) + sse_event(usage) + DONE
        else:
            writes[-1] += sse_event(last) + DONE
        return writes


@dataclass(frozen=True, slots=True)
class EmbeddingAnswer:
    """Vectors of texts, made up from the texts alone. `dimensions`: of each; `tokens`: of all texts."""

    id: str
    model: str
    texts: Sequence[str]
    dimensions: int
    base64: bool
    tokens: int

    def body(self) -> bytes:
        """Encodes the answer."""
        rows = [
            {
                "object": "embedding",
                "index": index,
                "embedding": vector.pack()[0] if self.base64 else vector[0],
            }
            for index, text in enumerate(self.texts)
            for vector in (Vectors([vector_of(text, self.dimensions)]),)
        ]
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        return msgspec.json.encode({"object": "list", "data": rows, "model": self.model, "usage": usage})


def vector_of(text: str, dimensions: int) -> tuple[float, ...]:
    """Draws a vector of length 1: always the same for equal texts."""
    draws = Random(text)
    drawn = [draws.gauss(0, 1) for _ in range(dimensions)]
    length = math.hypot(*drawn)
    return tuple(number / length for number in drawn)


def sse_event(value: object) -> bytes:
    """Encodes one server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
