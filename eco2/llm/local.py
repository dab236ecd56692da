"""The model that needs no key: an image classifier whose labels the stage turns into its answer.

`Reply.model` names the classifier, no tokens are counted, and no pipeline is known here. `Call.fallback` gets
the labels seen in `Call.image`, best first, or none without one. A call without it needs a provider: this
model reads no messages, chooses no tools and embeds no texts.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Protocol

from eco2.call import Answer, Call, Reply, Usage
from eco2.errors import ProviderRefused
from eco2.pipeline import Label
from eco2.ports import no_gate

NAME = "local/efficientnet-lite0"


class ImageClassifier(Protocol):
    """Names the contents of a picture; `eco2.llm.classifier.Classifier` is one."""

    def classify(self, data: bytes) -> Sequence[Label]: ...


class LocalModel:
    """A `Model` in this process. The classifier runs on a worker thread, never on the event loop."""

    def __init__(self, classifier: ImageClassifier) -> None:
        self._classifier = classifier

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,  # noqa: ARG002 - the port's; there is no provider whose log could name it
        on_text: Callable[[str], None],
        gate: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        """Answers by `call.fallback`. Raises `ProviderRefused` for a call or a picture it cannot answer."""
        await gate()
        if call.fallback is None:
            raise ProviderRefused(
                f"the call '{call.kind}' needs a language model, and none is offered here",
                code="MODEL_REQUIRED",
            )
        labels = () if call.image is None else await asyncio.to_thread(self.labels_of, call.image)
        value = call.fallback(labels)
        if call.stream and isinstance(value, str):
            on_text(value)  # whole: the answer follows at once, and what comes after it is never shown
        return Reply(value, NAME, Usage(cost=Decimal(0)))

    def labels_of(self, url: str) -> Sequence[Label]:
        """Classifies the image of a `data:` URL. Blocks."""
        from eco2.llm.picture import image_bytes

        return self._classifier.classify(image_bytes(url))


async def open_local() -> LocalModel:
    """Opens the model. Raises `ConfigurationError` where `eco2[local]` is not installed."""
    from eco2.llm.classifier import open_classifier

    return LocalModel(await asyncio.to_thread(open_classifier))
