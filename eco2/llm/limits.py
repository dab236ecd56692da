"""Which limit a 429 is about, and for how long, read from what providers say. Pure.

OpenAI names the limit in the error's `type` and message, and what is left in `x-ratelimit-remaining-*`.
Gemini sends a list of one error with Google's details: `QuotaFailure` with the ids of quotas, `RetryInfo`
with the seconds to wait, and no header. Others send nothing of the kind: then it is `other`, as is a limit of
a day, which no waiting for the next minute helps.
"""

import re
from collections.abc import Iterator, Mapping

from eco2.errors import LimitKind

_DAILY = re.compile(r"per ?day|\b[RT]PD\b", re.IGNORECASE)
_TOKENS = re.compile(r"token|\bTPM\b", re.IGNORECASE)
_REQUESTS = re.compile(r"request|\bRPM\b", re.IGNORECASE)
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)s")


def limit_kind(body: object, headers: Mapping[str, str]) -> LimitKind:
    """`body`: the error as the SDK hands it over, or the whole answer."""
    errors = list(_errors(body))
    for said in (*(words for error in errors for words in _quotas(error)), *map(_words, errors)):
        if _DAILY.search(said):
            return "other"
        if kind := _named(said):
            return kind
    for kind in _KINDS:
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            return kind
    return "other"


def retry_delay(body: object) -> float | None:
    """The seconds of Google's `RetryInfo`, or None."""
    for error in _errors(body):
        for detail in _details(error):
            if found := _SECONDS.fullmatch(_text(detail, "retryDelay")):
                return float(found[1])
    return None


_KINDS: tuple[LimitKind, LimitKind] = ("requests", "tokens")


def _named(said: str) -> LimitKind | None:
    # "requests" stands in texts about tokens, too: "please reduce your requests".
    return "tokens" if _TOKENS.search(said) else "requests" if _REQUESTS.search(said) else None


def _errors(body: object) -> Iterator[Mapping[str, object]]:
    for one in body if isinstance(body, list) else [body]:
        if isinstance(one, Mapping):
            inner = one.get("error")
            yield inner if isinstance(inner, Mapping) else one


def _details(error: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping):
            yield detail


def _quotas(error: Mapping[str, object]) -> Iterator[str]:
    """What Google calls the quotas that were exceeded."""
    for detail in _details(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, Mapping):
                yield f"{_text(violation, 'quotaId')} {_text(violation, 'quotaMetric')}"


def _words(error: Mapping[str, object]) -> str:
    """What OpenAI says of the limit: its type, and the message up to where advice begins."""
    return f"{_text(error, 'type')} {_text(error, 'message').partition(': ')[0]}"


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""
