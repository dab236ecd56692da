"""Encodes an answer: one `chat.completion`, or its chunks as server-sent events."""

from dataclasses import dataclass

import msgspec

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
    """A decided answer. `created`: Unix seconds."""

    id: str
    created: int
    model: str
    content: Content
    usage: ReportedUsage
    include_usage: bool

    @property
    def finish_reason(self) -> str:
        """Returns `length` if `max_completion_tokens` cut the answer."""
        return "stop" if self.content.complete else "length"

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
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return msgspec.json.encode(
            self._head("chat.completion") | {"choices": [choice], "usage": self.usage.json()}
        )

    def writes(self) -> list[bytes]:
        """Encodes one write per piece. The first also opens the message; the last also ends the stream."""
        head = msgspec.json.encode(self._head("chat.completion.chunk"))[:-1]
        tail = b',"logprobs":null,"finish_reason":null}]'
        tail += b',"usage":null}\n\n' if self.include_usage else b"}\n\n"
        start = b"data: " + head + b',"choices":[{"index":0,"delta":{"content":'
        writes = [start + msgspec.json.encode(piece) + b"}" + tail for piece in self.content.pieces]
        role = b'{"role":"assistant","content":"","refusal":null}'
        writes[0] = b"data: " + head + b',"choices":[{"index":0,"delta":' + role + tail + writes[0]
        choice = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self.finish_reason}
        last = self._head("chat.completion.chunk") | {"choices": [choice]}
        if self.include_usage:
            usage = self._head("chat.completion.chunk") | {"choices": [], "usage": self.usage.json()}
            writes[-1] += sse_event(last | {"usage": None}) + sse_event(usage) + DONE
        else:
            writes[-1] += sse_event(last) + DONE
        return writes


def sse_event(value: object) -> bytes:
    """Encodes one server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
