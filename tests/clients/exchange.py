"""Requests and answers over HTTP as text, and as a document that people read and tests read back."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

NOT_KEPT = frozenset({"date", "content-length"})
"""Headers of the answer that say nothing here: bodies are shown with line breaks that they did not have."""


@dataclass(frozen=True)
class Exchange:
    """One request and its answer. Names of headers are lower case; bodies are text, maybe empty."""

    request: str
    asked: Mapping[str, str]
    sent: str
    status: int
    headers: Mapping[str, str]
    body: str

    @classmethod
    def of(cls, response: httpx.Response, asked: Mapping[str, str], body: str) -> "Exchange":
        """What went over the wire. `asked`: the headers that matter; `body`: what was read of the answer."""
        request = response.request
        line = f"{request.method} {request.url.raw_path.decode()}"
        headers = {name: value for name, value in response.headers.items() if name not in NOT_KEPT}
        return cls(line, asked, request.content.decode(), response.status_code, headers, body)

    @property
    def data(self) -> Any:
        """The answer's JSON."""
        return json.loads(self.body)


def render(exchanges: list[Exchange]) -> str:
    """Two code blocks for each exchange."""
    return "".join(
        _block(exchange.request, exchange.asked, exchange.sent)
        + _block(f"{exchange.status}", exchange.headers, exchange.body)
        for exchange in exchanges
    )


def parse(text: str) -> list[Exchange]:
    """The exchanges that `render` wrote."""
    blocks = [_parts(block) for block in re.findall(r"^```http\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
    return [
        Exchange(*request, int(status), headers, body)
        for request, (status, headers, body) in zip(blocks[::2], blocks[1::2], strict=True)
    ]


def _block(first: str, headers: Mapping[str, str], body: str) -> str:
    lines = [first, *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["", _pretty(body).rstrip("\n")]
    return "\n".join(["```http", *lines, "```", "", ""])


def _pretty(body: str) -> str:
    return json.dumps(json.loads(body), ensure_ascii=False, indent=2) if body.startswith("{") else body


def _parts(block: str) -> tuple[str, dict[str, str], str]:
    head, _, body = block.partition("\n\n")
    first, *lines = head.rstrip("\n").split("\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return first, headers, body if body.startswith("{") else _ended(body)


def _ended(body: str) -> str:
    """An event stream with the empty line that ends its last frame."""
    return body.rstrip("\n") + "\n\n" if body else ""
