"""Which limit a 429 is about: bodies and headers of OpenAI, of Gemini, and of those who say nothing."""

import pytest

from eco2.errors import LimitKind
from eco2.llm.limits import limit_kind, retry_delay


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
