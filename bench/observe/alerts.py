"""Reads the alerts from their file, line by line; only Prometheus parses them fully."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parents[2] / "helm/eco2/files/alerts.yaml"

_ALERT = re.compile(r"^      - alert: (\w+)$", re.MULTILINE)
_FOR = re.compile(r"^(        for: )\w+$", re.MULTILINE)
_RANGE = re.compile(r"\[(?:1|3|5|10)m\]")


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. `body`: all of its lines except the first. `notes`: its annotations."""

    name: str
    body: str

    @property
    def severity(self) -> str:
        found = re.search(r"severity: (\w+)", self.body)
        return found[1] if found else ""

    @property
    def notes(self) -> Mapping[str, str]:
        _, _, notes = self.body.partition("annotations:\n")
        return {
            name: text.strip('"') for name, text in re.findall(r"^ {10}(\w+): (.+)$", notes, re.MULTILINE)
        }

    @property
    def expr(self) -> str:
        _, _, rest = self.body.partition("expr:")
        return re.split(r"^        (?:for|labels):", rest, maxsplit=1, flags=re.MULTILINE)[0].strip(" |\n")


def alerts(text: str) -> tuple[Alert, ...]:
    """Returns all alerts of the file, in order."""
    _, *parts = _ALERT.split(text)
    return tuple(Alert(name, body) for name, body in zip(parts[::2], parts[1::2], strict=True))


def hurried(text: str, wait: str, window: str) -> str:
    """Returns the same rules for a run of minutes: each `for` is `wait`, each range of minutes is
    `window`."""
    return _RANGE.sub(f"[{window}]", _FOR.sub(rf"\g<1>{wait}", text))
