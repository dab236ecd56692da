"""Which limit a 429 is about: bodies and headers of OpenAI, of Gemini, and of those who say nothing."""

import pytest

from eco2.errors import LimitKind
from eco2.llm.provider_errors import (
    MAX_WAIT,
    classify,
    inner_status,
    limit_kind,
    parameter,
    retry_after,
    retry_delay,
)


def openai(message: str, kind: str = "") -> object:
    return {"message": message, "type": kind, "param": None, "code": "rate_limit_exceeded"}


def gemini(*quotas: str, delay: str = "36s") -> object:
    """As its OpenAI-compatible endpoint sends it: a list of one."""
    violations = [{"quotaMetric": f"generativelanguage.googleapis.com/{quota}"} for quota in quotas]
    details = [
        {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": violations},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay},
    ]
    error = {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": details,
    }
    return [{"error": error}]


def quota_id(name: str) -> object:
    return {"error": {"details": [{"violations": [{"quotaId": name}]}]}}


TPM = "Rate limit reached for gpt-5.1 in organization org-x on tokens per min (TPM): Limit 30000, requests …"
RPM = "Rate limit reached for gpt-5.1 in organization org-x on requests per min (RPM): Limit 500, Used 500"
RPD = "Rate limit reached for gpt-5.1 in organization org-x on requests per day (RPD): Limit 200, Used 200"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (openai(TPM, "tokens"), "tokens"),
        (openai(TPM), "tokens"),
        (openai(RPM, "requests"), "requests"),
        (openai(RPM), "requests"),
        ({"error": openai(RPM)}, "requests"),
        (openai(RPD, "requests"), "other"),
        (openai("Rate limit reached", "tokens"), "tokens"),
        (openai("The server is busy: try later"), "other"),
        (gemini("generate_content_free_tier_requests"), "requests"),
        (gemini("generate_content_paid_tier_input_token_count"), "tokens"),
        (gemini(), "other"),
        (quota_id("GenerateRequestsPerMinutePerProjectPerModel-FreeTier"), "requests"),
        (quota_id("GenerateContentInputTokensPerModelPerMinute-FreeTier"), "tokens"),
        (quota_id("GenerateRequestsPerDayPerProjectPerModel-FreeTier"), "other"),
        (None, "other"),
        ("slow down", "other"),
        ([1, {"error": {"details": [None, {"violations": {"a": 1}}]}}], "other"),
        ({"message": 3, "type": None}, "other"),
    ],
)
def test_the_body_says_which_limit_was_met(body: object, kind: LimitKind) -> None:
    assert limit_kind(body, {}) == kind


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-remaining-tokens": "900"}, "requests"),
        ({"x-ratelimit-remaining-requests": "12", "x-ratelimit-remaining-tokens": "0"}, "tokens"),
        ({"x-ratelimit-remaining-requests": "12", "x-ratelimit-remaining-tokens": "900"}, "other"),
        ({}, "other"),
    ],
)
def test_else_the_headers_do(headers: dict[str, str], kind: LimitKind) -> None:
    assert limit_kind({"message": "slow down"}, headers) == kind
    assert limit_kind(openai(RPM), headers) == "requests"


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (gemini(delay="36s"), 36.0),
        (gemini(delay="0.847655010s"), 0.84765501),
        (gemini(delay="soon"), None),
        (openai(TPM), None),
        (None, None),
    ],
)
def test_google_says_in_the_body_how_long_to_wait(body: object, seconds: float | None) -> None:
    assert retry_delay(body) == seconds


def coded(code: object = None, message: str = "", **more: object) -> dict[str, object]:
    return {"message": message, "type": "invalid_request_error", "param": None, "code": code, **more}


ECHO = "no credit left, your key is not valid, unknown parameter 'x'"
"""What a user may write so that a provider repeats it."""


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        # an empty account
        (402, coded(), "money"),
        (402, None, "money"),
        (400, coded("billing_hard_limit_reached"), "money"),
        (429, coded("billing_not_active"), "money"),
        (429, coded("insufficient_quota"), "money"),
        (403, coded(type="insufficient_quota"), "money"),
        (0, coded("insufficient_quota"), "money"),
        (200, {"error": coded("insufficient_quota")}, "money"),
        (0, coded(402), "later"),  # by `inner_status`
        (400, coded(message="Your credit balance is too low to access the API."), "money"),
        (403, coded("Arrearage", "Access denied"), "money"),
        (400, coded("budget_exceeded"), "money"),
        (429, coded(None, "Monthly spend limit reached"), "money"),
        (400, coded(None, "You have reached your specified API usage limits."), "money"),
        (400, coded(None, "You don't have enough credits. Visit https://example.com/billing"), "money"),
        (400, {"error": "insufficient credits"}, "money"),
        (429, coded("1113", "余额不足或无可用资源包,请充值。"), "money"),
        (403, coded("x", "用户额度不足, 剩余额度: 0"), "money"),
        (403, coded("insufficient_user_quota"), "money"),
        (403, coded("AccountOverdueError"), "money"),
        (429, coded(type="exceeded_current_quota_error"), "money"),
        (429, coded(None, "Your prepayment credits are depleted."), "money"),
        (429, coded(None, "You have no remaining prepaid balance"), "money"),
        (429, coded(None, "You have reached your monthly limit"), "money"),
        (403, "Your newly created team doesn't have any credits yet.", "money"),
        (429, "Your team has either used all available credits or reached its limit", "money"),
        (200, {"success": False, "errors": [{"message": "insufficient balance"}]}, "money"),
        (200, {"code": "insufficient_quota", "message": "no"}, "money"),
        (402, {"detail": "x"}, "money"),
        (400, {"statusCode": 400, "message": "Insufficient balance", "error": "Bad Request"}, "money"),
        (429, {"detail": "Monthly quota exceeded"}, "money"),
        (429, openai("You exceeded your current quota, please check your plan and billing details."), "rate"),
        # this input
        (400, coded("content_filter"), "input"),
        (400, coded("content_policy_violation"), "input"),
        (400, coded(None, "x", innererror={"code": "ResponsibleAIPolicyViolation"}), "input"),
        (403, coded(403, "The input was flagged by the moderation model."), "input"),
        (403, coded(403, "x", metadata={"reasons": ["hate"], "flagged_input": "…"}), "input"),
        (400, coded("moderation_blocked"), "input"),
        (400, coded("invalid_prompt", "Invalid prompt: your prompt was flagged"), "input"),
        (400, coded(None, "Your request was rejected as a result of our safety system."), "input"),
        (422, coded("data_inspection_failed"), "input"),
        (451, coded(None, "This violates our usage policies."), "input"),
        (400, coded("invalid_request_error", "Content Exists Risk"), "input"),
        (403, coded(403, 'OpenAI: {"error": {"code": "content_filter"}}'), "input"),
        (403, coded(403, "Provider returned error", metadata={"raw": '{"code":"content_filter"}'}), "input"),
        (403, {"detail": "Input was flagged as unsafe"}, "input"),
        (403, {"statusCode": 403, "message": "Input flagged", "error": "Forbidden"}, "input"),
        (403, {"detail": {"message": "prompt flagged", "error": "moderation"}}, "input"),
        (403, {"errors": [{"message": "AiError: the input was flagged", "code": 5021}]}, "input"),
        (403, coded("guardrail_intervened", "Prompt rejected"), "input"),
        (403, coded(None, "Content violates usage guidelines. Failed check: SAFETY_CHECK"), "input"),
        (403, coded(None, "Rejected: the picture contains nudity"), "input"),
        (400, coded("1301", "可能包含不安全或敏感内容"), "input"),
        (500, coded("content_filter"), "input"),
        (0, coded("content_filter"), "input"),
        # the model's configuration
        (400, coded("unknown_parameter", "Unknown parameter: 'reasoning_effort'."), "unsupported"),
        (400, coded("unsupported_value", param="reasoning_effort"), "unsupported"),
        (400, coded(None, "Unrecognized request argument supplied: reasoning_effort"), "unsupported"),
        (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"]}]}, "unsupported"),
        (400, coded(None, "Invalid content type. image_url is only supported by certain models.",
                    param="messages.[1]"), "unsupported"),
        (404, coded(None, "No endpoints found that support image input"), "unsupported"),
        (400, coded(None, "'max_tokens' is not supported with this model."), "unsupported"),
        (400, coded(None, "The parameter max_tokens is not supported with this model."), "unsupported"),
        (422, {"detail": [{"type": "value_error.extra", "loc": ["body", "stream_options"]}]}, "unsupported"),
        (400, coded(None, "User location is not supported for the API use."), "unsupported"),
        (400, coded(None, 'Invalid JSON payload. Unknown name "x": Cannot find field.'), "unsupported"),
        (400, coded(None, "[{'type': 'extra_forbidden', 'loc': ('body', 'x'), 'input': 1}]"), "unsupported"),
        (422, {"message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"]}]}}, "unsupported"),
        (400, coded(None, "property 'reasoning_effort' is unsupported"), "unsupported"),
        (400, coded(None, "This response_format type is unavailable now"), "unsupported"),
        (400, coded(None, "Failed to deserialize the JSON body: messages[1]: unknown variant `image_url`"),
         "unsupported"),
        (400, coded(None, "Model does not support reasoning_effort"), "unsupported"),
        (404, coded("model_not_found"), "model"),
        (403, coded("model_not_found"), "model"),
        (404, None, "model"),
        # the key
        (401, coded(), "key"),
        (401, coded(None, "The input was flagged"), "key"),
        (403, coded(), "key"),
        (403, coded("unsupported_country_region_territory"), "key"),
        (403, "<html>Forbidden</html>", "down"),
        (403, "\n<!DOCTYPE html><p>You have been blocked by us: payment required</p>", "down"),
        (403, "Forbidden", "down"),
        (403, None, "down"),
        (400, [{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}], "key"),
        # limits, outages, this request
        (429, openai(TPM), "rate"),
        (429, gemini("generate_content_paid_tier_input_token_count"), "rate"),
        (429, openai("Request too large for gpt-5.1 on tokens per min (TPM): Limit 30000"), "too large"),
        (429, "slow down", "rate"),
        (500, coded(), "down"),
        (529, None, "down"),
        (408, None, "later"),
        (0, coded(None, "overloaded"), "later"),
        (400, coded("invalid_image_format", "You uploaded an unsupported image."), "request"),
        (400, coded("unsupported_value", "Unsupported value", param="messages[1].content"), "request"),
        (413, None, "request"),
        # what a provider repeats of a user's text decides nothing
        (400, coded(None, f"Could not read '{ECHO}'."), "request"),
        (400, coded(None, f"1 validation error: {{'input': \"{ECHO}\"}}"), "request"),
        (400, coded(None, "Invalid value. " + "x" * 300 + ECHO), "request"),
        (400, coded(None, "Could not read 'it's me, 'a' no credit left'."), "request"),
        (400, coded(None, "Invalid 'x': no credit left"), "request"),
        (400, coded(None, f"Invalid value: {ECHO}", param="messages"), "request"),
        (400, coded(None, "[{'type': 'string_type', 'input': 'extra_forbidden'}]"), "request"),
        (403, {"detail": "Forbidden"}, "key"),
        (400, coded("invalid_image_url", "Error while downloading https://a.example/unpaid.jpg.",
                    param="url"), "request"),
        (400, coded(None, "Error while downloading HTTPS://a.example/insufficient_quota"), "request"),
        (429, coded(None, "Timeout while downloading https://a.example/insufficient_quota"), "rate"),
    ],
)  # fmt: skip
def test_the_meaning_decides_and_not_the_status(status: int, body: object, expected: str) -> None:
    assert classify(status, body) == expected


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (coded(param="reasoning_effort"), "reasoning_effort"),
        (coded(None, "Unknown parameter: 'response_format.type'."), "response_format.type"),
        (coded(None, "Unrecognized request argument supplied: reasoning_effort"), "reasoning_effort"),
        ({"detail": [{"loc": ["body", "stream_options"]}]}, "stream_options"),
        ({"message": {"detail": [{"loc": ["body", "stream_options"]}]}}, "stream_options"),
        (coded(param="\x1b[31m<b>"), None),
        (coded(None, "no"), None),
        (None, None),
    ],
)
def test_a_parameter_is_named_where_it_can_be_shown(body: object, name: str | None) -> None:
    assert parameter(body) == name


@pytest.mark.parametrize(
    ("body", "status"),
    [({"error": {"code": 402}}, 402), ({"code": "429"}, 429), ({"status": 503}, 503), ({"code": True}, 0),
     ({"code": "4²"}, 0), ({"code": 200}, 0), (None, 0), ({"code": "insufficient_quota"}, 0)],
)  # fmt: skip
def test_an_error_inside_an_answer_may_name_its_status(body: object, status: int) -> None:
    assert inner_status(body) == status


@pytest.mark.parametrize(
    "value",
    [
        "9999999999",
        "inf",
        "1e300",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "Fri, 31 Dec 9999 23:59:59 -0000",
        "9" * 5000,
    ],
)
def test_a_wait_is_bounded(value: str) -> None:
    assert retry_after({"retry-after": value}, now=1e9) == MAX_WAIT
    assert retry_after({"retry-after-ms": "inf", "retry-after": value}, now=1e9) == MAX_WAIT
    assert retry_delay([{"error": {"details": [{"retryDelay": "9" * 400 + "s"}]}}]) == MAX_WAIT
    assert 10 <= MAX_WAIT < 100


@pytest.mark.parametrize(
    "value",
    [
        "nan",
        "²",
        "٣",
        "",
        "soon",
        "5, 7",
        "Fri, 31 Dec 99999 23:59:59 GMT",
        "Xyz, 99 Foo 2026",
        "0x10",
        "\x00",
    ],
)
def test_a_wait_that_makes_no_sense_is_none(value: str) -> None:
    assert retry_after({"retry-after": value}, now=1e9) is None


@pytest.mark.parametrize("value", ["-1", "-inf", "-1e300", "0", "Thu, 01 Jan 1970 00:00:01 GMT"])
def test_a_wait_is_never_negative(value: str) -> None:
    assert retry_after({"retry-after": value}, now=1e9) == 0.0
