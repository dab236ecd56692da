"""A fake provider that sees what a test says, for workers in processes of their own."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from eco2.fake.config import ANSWER, VISION, CallKind, FakeConfig
from eco2.fake.faults import Fault
from eco2.stages.request import ScanInput
from eco2.stages.tags import Tag
from eco2.stages.taxonomy import Middle, major_of
from eco2.stages.vision import vision_call
from tests.support.fake_provider import running

NO_LIMITS = {
    "ECO2_RPM": "1000000",
    "ECO2_TPM": "1000000000",
    "ECO2_PREFETCH": "110",
    "ECO2_CONCURRENCY": "110",
}
"""For workers whose budget is not what a test is about."""


@dataclass(frozen=True)
class Sighting:
    """What the photo shows, how long each of the two calls takes (seconds), and what goes wrong."""

    middle: Middle = Middle.METAL
    minor: str | None = "알루미늄캔"
    tags: Sequence[Tag] = ()
    seconds: float = 0.0
    faults: tuple[Fault, ...] = ()

    def config(self) -> FakeConfig:
        """The fake's settings: latencies that do not vary, answers in few pieces, no limits."""
        schema = vision_call(ScanInput(image_url="https://photos.example/1.jpg")).schema
        wanted = {
            "major_category": major_of(self.middle).value,
            "middle_category": self.middle.value,
            "minor_category": self.minor,
            "situation_tags": [tag.value for tag in self.tags],
        }
        return FakeConfig(
            rpm=None,
            tpm=None,
            kinds={kind: CallKind(self.seconds or 1.0, self.seconds or 1.0, 40) for kind in (VISION, ANSWER)},
            scale=1.0 if self.seconds else 0.0,
            chunks=4,
            answers={schema.__name__: ({name: wanted[name] for name in schema.model_fields},)},
            faults=self.faults,
        )


@asynccontextmanager
async def seeing(sighting: Sighting) -> AsyncIterator[dict[str, str]]:
    """Runs the provider; yields the environment that makes a worker ask it."""
    async with running(sighting.config()) as fake:
        yield {
            "OPENAI_API_KEY": "test",
            "OPENAI_BASE_URL": f"{fake.url}/v1",
            "ECO2_IMAGE_URLS": "on",
            **NO_LIMITS,
        }
