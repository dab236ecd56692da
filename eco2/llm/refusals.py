"""What a provider means when it refuses: classified by meaning, not by status. Pure.

The same fact comes under many codes: an empty account as 402, 400, 403, 429 or inside a 200; a flagged input
as 400 or 403. So the error's codes decide, then its message, then the status. Of a message only the beginning
counts, without what it quotes: a provider may repeat a user's text in it, which must decide nothing. An empty
account closes the provider for all jobs, so words about money count only in front of a quotation or URL.

OpenAI names a limit in the error's `type` and message, and what is left in `x-ratelimit-remaining-*`. Gemini
sends a list of one error with Google's details: `QuotaFailure` with the ids of quotas, `RetryInfo` with the
seconds to wait, and no header. Others send nothing of the kind: then it is `other`, as is a limit of a day,
which no waiting for the next minute helps.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from eco2.errors import LimitKind
from eco2.retry import bounded, number, seconds_asked

MAX_WAIT = 90.0
"""Seconds; no provider is believed that asks for more: one answer must not stop a job until its deadline."""

Meaning = Literal[
    "money", "input", "unsupported", "model", "key", "too large", "rate", "down", "later", "request"
]
"""`money`: the account is empty. `input`: what this job sent was refused. `unsupported`: the model takes no
such call. `model`: there is none of that name or address. `key`: it is not accepted. `too large`: for a
minute's budget. `rate`: too many calls. `down`: an error of the provider's own. `later`: it may pass.
`request`: anything else."""

_INPUT_CODES = re.compile(
    r"content_?(filter|policy|moderation|management|blocked)|moderation|flagged|policy_?violation|"
    r"data_?inspection|invalid_prompt|sensitive|prohibited|unsafe|safety",
    re.IGNORECASE,
)
_MONEY_CODES = re.compile(
    r"insufficient_?(quota|balance|credit|fund)|billing|payment_?required|credit|arrear|budget_?exceeded|"
    r"hard_limit|spend(ing)?_?limit",
    re.IGNORECASE,
)
_UNSUPPORTED_CODES = re.compile(
    r"(unknown|unsupported|unrecognized)_?(parameter|value|param)|extra_forbidden|unsupportedparams|"
    r"value_error\.extra|"
    r"unsupported_?(model_)?feature",
    re.IGNORECASE,
)
_MODEL_CODES = re.compile(r"model_?not_?found|invalid_?model|deployment_?not_?found", re.IGNORECASE)
_KEY_CODES = re.compile(r"api_?key_?invalid|invalid_?api_?key|invalid_?authentication", re.IGNORECASE)

_INPUT_WORDS = re.compile(
    r"\b(was|been|were|is|being) (flagged|blocked by|filtered|rejected as a result of)|"
    r"flagged (by|as|for)|moderat|content (policy|filter|management)|usage polic|"
    r"safety (system|filter|polic|setting)|violat\w* .{0,40}(polic|terms|guideline)|"
    r"inappropriate content|sensitive content|content exists risk|敏感内容",
    re.IGNORECASE,
)
_MONEY_WORDS = re.compile(
    r"(insufficient|not enough|n.t have enough|no|low|out of|run out of|exhausted|negative) (\w+ )?"
    r"(credit|balance|fund|money)|(credit|account) balance is|billing (hard )?limit|"
    r"account is not active|payment required|(exceed|reach)\w* .{0,30}(budget|spend)|"
    r"(spend(ing)?|budget|billing|credit) (limit|cap|quota) .{0,20}(reached|exceeded|hit)|"
    r"specified API usage limits|add (more )?credits|insufficient_quota|unpaid",
    re.IGNORECASE,
)
_UNSUPPORTED_WORDS = re.compile(
    r"(unknown|unsupported|unrecognized|unexpected|unpermitted) (request )?(\w+ )?"
    r"(parameter|argument|field|keyword|value)|extra (inputs|fields) are not permitted|"
    r"only supported by certain models|support image|"
    r"(does not|doesn't|not) support\w*\b.{0,60}"
    r"\b(model|parameter|image|vision|schema|stream|response_format)|"
    r"(parameter|model) .{0,60}(is |are )?not (supported|allowed)|"
    r"(location|country|region)\b.{0,40}not supported",
    re.IGNORECASE,
)
_TOO_LARGE_WORDS = re.compile(r"request (is )?too large", re.IGNORECASE)
_QUOTED = re.compile(
    r"(?<!\w)'.*?'(?!\w)|\"[^\"]*\"|`[^`]*`|“[^”]*”|\{.*|\[.*|(?:https?|data):\S+", re.DOTALL | re.IGNORECASE
)
_FOREIGN = re.compile(r"(?<!\w)['‘’]|[\"`“”«{\[]|(?:https?|data):", re.IGNORECASE)
"""Where a message may begin to repeat what a user wrote; not at an apostrophe inside a word."""
_BEGINNING = 240
_PARAMETER = re.compile(r"['\"`]([A-Za-z][\w.\[\]]{0,60})['\"`]|: ([a-z][a-z_]{2,40})\b")
_NAME = re.compile(r"[A-Za-z][\w.\[\]-]{0,60}")

_DAILY = re.compile(r"per ?day|\b[RT]PD\b", re.IGNORECASE)
_TOKENS = re.compile(r"token|\bTPM\b", re.IGNORECASE)
_REQUESTS = re.compile(r"request|\bRPM\b", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")
_LATER = (408, 409, 425)


def meaning(status: int, body: object) -> Meaning:
    """`status`: HTTP's, or the one that an error inside a 200 names (0: none). `body`: as in `limit_kind`."""
    errors = list(_errors(body))
    codes = " ".join(code for error in errors for code in _codes(error))
    messages = [_text(error, "message") for error in errors]
    text = _QUOTED.sub(" ", " ".join(messages))[:_BEGINNING]
    if status == 403 and any(_INPUT_CODES.search(message) for message in messages):
        codes += " flagged"  # an error inside the message of another; misread, it fails one job only
    if status == 401 or _KEY_CODES.search(codes):
        return "money" if _MONEY_CODES.search(codes) else "key"
    if _INPUT_CODES.search(codes):
        return "input"
    if status == 402 or _MONEY_CODES.search(codes):
        return "money"
    if status == 404 or _MODEL_CODES.search(codes):
        return "unsupported" if _UNSUPPORTED_WORDS.search(text) else "model"
    if _UNSUPPORTED_CODES.search(codes) and not _about_messages(errors):
        return "unsupported"
    if _about_messages(errors) and "certain models" not in text:
        return _by_words(status, text, None) or _by_status(status)
    ours = " ".join(_FOREIGN.split(message, maxsplit=1)[0] for message in messages)[:_BEGINNING]
    return _by_words(status, text, ours) or _by_status(status)


def _by_words(status: int, text: str, ours: str | None) -> Meaning | None:
    """By the message, where the codes tell nothing. An input that is refused comes first: if a message is
    misread, one job fails and the provider stays open. `ours`: what no user can have written; None where
    the error is about what the job sent."""
    if status == 429 and _TOO_LARGE_WORDS.search(text):
        return "too large"
    if status != 429 and status < 500 and _INPUT_WORDS.search(text):
        return "input"
    if ours is None:
        return None
    if status < 500 and _MONEY_WORDS.search(ours):
        return "money"
    if status in (0, 400, 403, 405, 422, 501) and _UNSUPPORTED_WORDS.search(text):
        return "unsupported"
    return None


def _by_status(status: int) -> Meaning:
    if status == 403:
        return "key"
    if status == 429:
        return "rate"
    if status >= 500:
        return "down"
    return "later" if status in _LATER or status < 400 else "request"


def _about_messages(errors: list[Mapping[str, object]]) -> bool:
    """What a job put into the messages is its own, not the model's configuration."""
    return any(_text(error, "param").startswith("messages") for error in errors)


def parameter(body: object) -> str | None:
    """The parameter that the error is about, if it names one in a form that can be shown."""
    for error in _errors(body):
        named = _text(error, "param")
        found = _PARAMETER.search(_text(error, "message"))
        name = named or (next(filter(None, found.groups())) if found else "")
        if _NAME.fullmatch(name):
            return name
        for detail in _details(error):
            place = detail.get("loc")
            if isinstance(place, list) and place and _NAME.fullmatch(str(place[-1])):
                return str(place[-1])
    return None


def inner_status(body: object) -> int:
    """The HTTP status that an error inside an answer names, 0 for none."""
    for error in _errors(body):
        for name in ("code", "status", "status_code", "http_code"):
            value = error.get(name)
            if isinstance(value, str) and value.isascii() and value.isdigit():
                value = int(value[:4])
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
                return value
    return 0


def limit_kind(body: object, headers: Mapping[str, str]) -> LimitKind:
    """`body`: the error as the SDK hands it over, or the whole answer."""
    errors = list(_errors(body))
    for text in (*(words for error in errors for words in _quotas(error)), *map(_words, errors)):
        if _DAILY.search(text):
            return "other"
        if kind := _named(text):
            return kind
    for kind in _KINDS:
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            return kind
    return "other"


def words(body: object) -> str:
    """The messages and Google's reasons, "" where there are none."""
    found = []
    for error in _errors(body):
        reasons = [_text(detail, "reason") for detail in _details(error)]
        found += [_text(error, "message"), *reasons]
    return " ".join(filter(None, found))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the provider asks us to wait (`now`: Unix seconds), or None if it does not say."""
    if (milliseconds := number(headers.get("retry-after-ms", ""))) is not None:
        return bounded(milliseconds / 1000, MAX_WAIT)
    return seconds_asked(headers.get("retry-after", ""), now, MAX_WAIT)


def retry_delay(body: object) -> float | None:
    """The seconds of Google's `RetryInfo`, or None."""
    for error in _errors(body):
        for detail in _details(error):
            if found := _SECONDS.fullmatch(_text(detail, "retryDelay")):
                return bounded(float(found[1]), MAX_WAIT)
    return None


_KINDS: tuple[LimitKind, LimitKind] = ("requests", "tokens")


def _named(text: str) -> LimitKind | None:
    # "requests" stands in texts about tokens, too: "please reduce your requests".
    return "tokens" if _TOKENS.search(text) else "requests" if _REQUESTS.search(text) else None


def _errors(body: object) -> Iterator[Mapping[str, object]]:
    for one in body if isinstance(body, list) else [body]:
        if isinstance(one, Mapping):
            inner = one.get("error")
            yield inner if isinstance(inner, Mapping) else {**one, "message": inner} if inner else one
        elif isinstance(one, str):
            yield {"message": one}


def _codes(error: Mapping[str, object]) -> Iterator[str]:
    """Every short word by which the error names itself, that of what it wraps included."""
    for name in ("code", "type", "status", "reason", "error_code"):
        yield _text(error, name)
    for name in ("innererror", "inner_error", "metadata"):
        inner = error.get(name)
        if isinstance(inner, Mapping):
            yield from (_text(inner, "code"), _text(inner, "type"))
            yield "flagged" if _INPUT_CODES.search(_text(inner, "raw")) else ""
            yield "flagged" if inner.get("flagged_input") or inner.get("content_filter_result") else ""
    for detail in _details(error):
        yield from (_text(detail, "reason"), _text(detail, "type"))


def _details(error: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    details = error.get("details") or error.get("detail")
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
