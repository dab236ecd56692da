"""429 answers over a real connection: which limit was met, and how long to wait."""

import json

import pytest

from eco2.call import Call
from eco2.errors import LimitKind, ProviderAccessDenied, RateLimited
from eco2.fake.config import FakeConfig
from eco2.llm.openai import OpenAIModel
from tests.support.fake_provider import running
from tests.support.scripted_provider import saying

CALL = Call("answer", "Answer.", "Where does this go?", str, 100)
GEMINI = {
    "code": 429,
    "message": "You exceeded your current quota.",
    "status": "RESOURCE_EXHAUSTED",
    "details": [
        {"violations": [{"quotaId": "GenerateContentInputTokensPerModelPerMinute-FreeTier"}]},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12.5s"},
    ],
}


async def refused(url: str) -> RateLimited:
    adapter = OpenAIModel("key", f"{url}/v1", "gpt-5.1")
    try:
        with pytest.raises(RateLimited) as caught:
            await adapter.complete(CALL, "job", lambda _: None)
    finally:
        await adapter.aclose()
    return caught.value


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (FakeConfig(scale=0, rpm=1, tpm=10_000), "requests"),
        (FakeConfig(scale=0, rpm=100, tpm=150), "tokens"),
    ],
)
async def test_openai_names_the_limit(config: FakeConfig, kind: LimitKind) -> None:
    async with running(config) as fake:
        adapter = OpenAIModel("key", f"{fake.url}/v1", "gpt-5.1")
        await adapter.complete(CALL, "job", lambda _: None)
        await adapter.aclose()
        error = await refused(fake.url)
    assert error.kind == kind
    assert error.retry_after is not None
    assert 0 < error.retry_after <= 60


async def test_gemini_names_it_in_a_list_of_one() -> None:
    async with saying(json.dumps([{"error": GEMINI}]), status=429) as url:
        error = await refused(url)
    assert (error.kind, error.retry_after) == ("tokens", 12.5)
    assert "You exceeded your current quota." in str(error)


async def test_gemini_refuses_a_key_with_a_400() -> None:
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT", "details": details}
    async with saying(json.dumps([{"error": error}]), status=400) as url:
        adapter = OpenAIModel("key", f"{url}/v1", "gemini-2.5-flash")
        with pytest.raises(ProviderAccessDenied, match="does not accept our key"):
            await adapter.complete(CALL, "job", lambda _: None)
        await adapter.aclose()


async def test_others_say_nothing() -> None:
    async with saying("Too fast", status=429, content_type="text/plain") as url:
        error = await refused(url)
    assert (error.kind, error.retry_after) == ("other", None)
