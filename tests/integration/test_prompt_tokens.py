"""The report counts what is really sent: the adapter's requests weigh the same at the fake provider."""

from contextlib import aclosing

from bench.tokens import MODEL, Case, scan
from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from eco2.llm.openai import OpenAIModel
from eco2.stages import vision
from eco2.stages.request import ScanInput
from tests.integration.test_fake_sdk import photo
from tests.support.fake_provider import running

KIND = CallKind(mean=1.0, p99=2.0, completion_tokens=160)


async def test_the_counted_prompt_is_the_sent_one() -> None:
    config = FakeConfig(scale=0, kinds={VISION: KIND, ANSWER: KIND}, models=(MODEL,))
    case = Case("우유팩")
    request = ScanInput(image_url=photo(), user_input=case.question)
    async with running(config) as fake, aclosing(OpenAIModel("key", f"{fake.url}/v1", MODEL)) as model:
        reply = await model.complete(vision.vision_call(request), "job", lambda _: None)
    assert reply.usage.input_tokens == scan(case).vision.tokens
