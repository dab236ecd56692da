"""Classifies a provider's error by its meaning, not by its status. Pure.

One meaning comes under many codes: an empty account as 402, 400, 403, 429 or inside a 200; a flagged input as
400 or 403. So the error's codes decide first, then its message, then the status. Only the beginning of a
message counts, without quotations: a provider may repeat a user's text there, which must decide nothing. An
empty account closes the provider for all jobs, so words about money count only before a quotation or URL.

OpenAI names a limit in the error's `type` and message, and what is left in `x-ratelimit-remaining-*`. Gemini
sends a list of one error with Google's details: `QuotaFailure` with the ids of quotas, `RetryInfo` with the
seconds to wait, and no header. Others name no limit: then it is `other`, as is a daily limit, since waiting
for the next minute does not help.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from eco2.errors import LimitKind
from eco2.retry import bounded, number, seconds_asked

MAX_WAIT = 90.0
"""Seconds; longer requests to wait are cut to this: one answer must not stop a job until its deadline."""

ErrorKind = Literal[
    "money", "input", "unsupported", "model", "key", "too large", "rate", "down", "later", "request"
]
"""`money`: the account is empty. `input`: the job's input was refused. `unsupported`: the model does not
support the call. `model`: no such model or address. `key`: the key is not accepted. `too large`: for a
minute's budget. `rate`: too many calls. `down`: the provider fails, or a proxy answers in its place. `later`:
it may pass. `request`: anything else."""

_INPUT_CODES = re.compile(
    r"content_?(filter|policy|moderation|management|blocked)|moderation|flagged|policy_?violation|"
    r"data_?inspection|invalid_prompt|sensitive|prohibited|unsafe|safety|guardrail|nudity|sexual",
    re.IGNORECASE,
)
_MONEY_CODES = re.compile(
    r"insufficient_?(user_?)?(quota|balance|credit|fund)|exceeded_current_quota|billing|payment_?required|"
    r"credit|arrear|overdue|prepa(id|yment)|budget_?exceeded|hard_limit|spend(ing)?_?limit",
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

_INPUT_TEXT = re.compile(
    r"\b(was|been|were|is|being) (flagged|blocked by|filtered|rejected as a result of)|"
    r"flagged (by|as|for)|moderat|content (policy|filter|management)|usage polic|"
    r"safety (system|filter|polic|setting)|violat\w* .{0,40}(polic|terms|guideline)|"
    r"inappropriate content|sensitive content|content exists risk|guardrail|敏感内容",
    re.IGNORECASE,
)
_MONEY_TEXT = re.compile(
    r"(insufficient|not enough|n.t have (enough|any)|no|low|out of|run out of|used all|exhausted|negative|"
    r"overdue) (\w+ ){0,2}(credit|balance|fund|money)|(credit|account) balance is|billing (hard )?limit|"
    r"(credit|balance|fund)s? (is|are|was|were|has been|have been) (depleted|exhausted|insufficient|used up)|"
    r"account is not active|payment required|(exceed|reach)\w* .{0,30}(budget|spend|monthly)|"
    r"(spend(ing)?|budget|billing|credit|monthly) (\w+ )?(limit|cap|quota) .{0,20}(reached|exceeded|hit)|"
    r"specified API usage limits|add (more )?credits|insufficient_quota|unpaid|(余额|额度)不足|欠费|预扣费",
    re.IGNORECASE,
)
_UNSUPPORTED_TEXT = re.compile(
    r"(unknown|unsupported|unrecognized|unexpected|unpermitted) (request )?(\w+ )?"
    r"(parameter|argument|field|keyword|value)|unknown (name|variant)\b|"
    r"extra (inputs|fields) are not permitted|"
    r"only supported by certain models|support image|\bmodel does(n't| not) support|type is unavailable|"
    r"failed to deserialize|"
    r"(does not|doesn't|not) support\w*\b.{0,60}"
    r"\b(model|parameter|image|vision|schema|stream|response_format)|"
    r"(parameter|model|property|field) .{0,60}((is |are )?not (supported|allowed)|is unsupported)|"
    r"(location|country|region)\b.{0,40}not supported",
    re.IGNORECASE,
)
_TOO_LARGE_TEXT = re.compile(r"request (is )?too large", re.IGNORECASE)
_QUOTED = re.compile(
    r"(?<!\w)'.*?'(?!\w)|\"[^\"]*\"|`[^`]*`|“[^”]*”|\{.*|\[.*|(?:https?|data):\S+", re.DOTALL | re.IGNORECASE
)
_FOREIGN = re.compile(r"(?<!\w)['‘’]|[\"`“”«{\[]|(?:https?|data):", re.IGNORECASE)
"""Where a message may begin to repeat a user's text; not at an apostrophe inside a word."""
_BEGINNING = 240
_LISTED = re.compile(r"\[\{'type': '(\w+)'")
"""The beginning of a message that is a list of pydantic's errors as text."""
_PARAMETER = re.compile(r"['\"`]([A-Za-z][\w.\[\]]{0,60})['\"`]|: ([a-z][a-z_]{2,40})\b")
_NAME = re.compile(r"[A-Za-z][\w.\[\]-]{0,60}")

_DAILY = re.compile(r"per ?day|\b[RT]PD\b", re.IGNORECASE)
_TOKENS = re.compile(r"token|\bTPM\b", re.IGNORECASE)
_REQUESTS = re.compile(r"request|\bRPM\b", re.IGNORECASE)
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)s")
_LATER = (408, 409, 425)
_MINUTE_LIMITS: tuple[LimitKind, LimitKind] = ("requests", "tokens")


def classify(status: int, body: object) -> ErrorKind:
    """Returns the kind of an error. `status`: of HTTP, or named by an error inside a 200 (0: none)."""
    errors = list(errors_in(body))
    if status == 403 and isinstance(body, str) and body.lstrip().startswith("<"):
        return "down"  # a page of a proxy or firewall, which knows nothing of our key
    codes = " ".join(code for error in errors for code in names_of(error))
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
        return "unsupported" if _UNSUPPORTED_TEXT.search(text) else "model"
    # The job writes the messages of a request, so an error about them is not one of the configuration.
    of_job = any(_text(error, "param").startswith("messages") for error in errors)
    if _UNSUPPORTED_CODES.search(codes) and not of_job:
        return "unsupported"
    ours = " ".join(_FOREIGN.split(message, maxsplit=1)[0] for message in messages)[:_BEGINNING]
    if of_job and "certain models" not in text:
        kind = kind_by_text(status, text, None)
    else:
        kind = kind_by_text(status, text, ours)
    return kind or kind_by_status(status, is_json=bool(errors) and not isinstance(body, str))


def kind_by_text(status: int, text: str, ours: str | None) -> ErrorKind | None:
    """Returns the kind by the message; None if it decides nothing.

    A refused input is checked first: if a message is misread, one job fails and the provider stays open.
    `ours`: the part that no user can have written; None if the error is about the job's input.
    """
    if status == 429 and _TOO_LARGE_TEXT.search(text):
        return "too large"
    if status != 429 and status < 500 and _INPUT_TEXT.search(text):
        return "input"
    if ours is None:
        return None
    if status < 500 and _MONEY_TEXT.search(ours):
        return "money"
    if status in (0, 400, 403, 405, 422, 501) and _UNSUPPORTED_TEXT.search(text):
        return "unsupported"
    return None


def kind_by_status(status: int, *, is_json: bool) -> ErrorKind:
    """Returns the kind by the status. `is_json`: the body is a JSON error, so the provider itself sent it."""
    if status == 403:
        return "key" if is_json else "down"
    if status == 429:
        return "rate"
    if status >= 500:
        return "down"
    return "later" if status in _LATER or status < 400 else "request"


def parameter(body: object) -> str | None:
    """Returns the parameter that the error is about, if it names one in a form that can be shown."""
    for error in errors_in(body):
        quoted = _PARAMETER.search(_text(error, "message"))
        name = _text(error, "param") or (next(filter(None, quoted.groups())) if quoted else "")
        if _NAME.fullmatch(name):
            return name
        for detail in (error, *details_of(error)):
            place = detail.get("loc")
            if isinstance(place, list) and place and _NAME.fullmatch(str(place[-1])):
                return str(place[-1])
    return None


def inner_status(body: object) -> int:
    """Returns the HTTP status that an error inside an answer names; 0 for none."""
    for error in errors_in(body):
        for name in ("code", "status", "status_code", "http_code"):
            value = error.get(name)
            if isinstance(value, str) and value.isascii() and value.isdigit():
                value = int(value[:4])
            if isinstance(value, int) and not isinstance(value, bool) and 400 <= value <= 599:
                return value
    return 0


def limit_kind(body: object, headers: Mapping[str, str]) -> LimitKind:
    """Returns the limit that was reached. `body`: the error as the SDK returns it, or the whole answer."""
    errors = list(errors_in(body))
    # OpenAI names the limit in the type, and in the message before its advice begins.
    texts = [f"{_text(error, 'type')} {_text(error, 'message').partition(': ')[0]}" for error in errors]
    for text in (*(quota for error in errors for quota in quotas_of(error)), *texts):
        if _DAILY.search(text):
            return "other"
        if _TOKENS.search(text):  # first: "requests" stands in texts about tokens, too
            return "tokens"
        if _REQUESTS.search(text):
            return "requests"
    for kind in _MINUTE_LIMITS:
        if headers.get(f"x-ratelimit-remaining-{kind}", "").strip() == "0":
            return kind
    return "other"


def error_text(body: object) -> str:
    """Returns the messages and Google's reasons; "" if there are none."""
    texts = []
    for error in errors_in(body):
        texts += [_text(error, "message"), *(_text(detail, "reason") for detail in details_of(error))]
    return " ".join(filter(None, texts))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Returns the seconds that the provider asks us to wait, if any. `now`: Unix seconds."""
    if (milliseconds := number(headers.get("retry-after-ms", ""))) is not None:
        return bounded(milliseconds / 1000, MAX_WAIT)
    return seconds_asked(headers.get("retry-after", ""), now, MAX_WAIT)


def retry_delay(body: object) -> float | None:
    """Returns the seconds of Google's `RetryInfo`, if any."""
    for error in errors_in(body):
        for detail in details_of(error):
            if seconds := _SECONDS.fullmatch(_text(detail, "retryDelay")):
                return bounded(float(seconds[1]), MAX_WAIT)
    return None


def errors_in(body: object) -> Iterator[Mapping[str, object]]:
    """Yields the errors of an answer, each with its members at the top."""
    for one in body if isinstance(body, list) else [body]:
        if isinstance(one, str):
            yield {"message": one}
        elif isinstance(one, Mapping):
            parts = [one.get(name) for name in ("error", "errors", "message", "detail")]
            text = ". ".join(part for part in parts if isinstance(part, str))
            inner = next((part for part in parts if part and isinstance(part, Mapping | list)), {})
            for each in inner if isinstance(inner, list) else [inner]:
                yield {**one, "message": text, **(each if isinstance(each, Mapping) else {"message": each})}


def names_of(error: Mapping[str, object]) -> Iterator[str]:
    """Yields every code and type of the error, and of the errors that it wraps."""
    for name in ("code", "type", "status", "reason", "error_code"):
        yield _text(error, name)
    if listed := _LISTED.match(_text(error, "message")):
        yield listed[1]
    for name in ("innererror", "inner_error", "metadata"):
        inner = error.get(name)
        if isinstance(inner, Mapping):
            yield from (_text(inner, "code"), _text(inner, "type"))
            yield "flagged" if _INPUT_CODES.search(_text(inner, "raw")) else ""
            yield "flagged" if inner.get("flagged_input") or inner.get("content_filter_result") else ""
    for detail in details_of(error):
        yield from (_text(detail, "reason"), _text(detail, "type"))


def details_of(error: Mapping[str, object]) -> Iterator[Mapping[str, object]]:
    """Yields the objects in the error's `details`."""
    details = error.get("details") or error.get("detail")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping):
            yield detail


def quotas_of(error: Mapping[str, object]) -> Iterator[str]:
    """Yields Google's names of the exceeded quotas."""
    for detail in details_of(error):
        violations = detail.get("violations")
        for violation in violations if isinstance(violations, list) else ():
            if isinstance(violation, Mapping):
                yield f"{_text(violation, 'quotaId')} {_text(violation, 'quotaMetric')}"


def _text(members: Mapping[str, object], name: str) -> str:
    value = members.get(name)
    return value if isinstance(value, str) else ""
