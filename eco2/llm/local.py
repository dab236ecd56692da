"""The model that needs no key: it sees the photo with an image classifier and asks the stage for the words.

It is honest about what it is: `Reply.model` names the classifier, it counts no tokens, and it knows nothing
of any pipeline. A stage says in `Call.local` what labels mean to it; a call without that needs a provider.
"""

import asyncio
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Protocol

from eco2.call import Answer, Call, Label, Reply, Usage
from eco2.errors import ProviderRefused
from eco2.ports import no_gate

NAME = "local/efficientnet-lite0"


class Sees(Protocol):
    """What the model needs of a classifier."""

    def classify(self, data: bytes) -> tuple[Label, ...]: ...


class LocalModel:
    """A `Model` in this process. The classifier runs on a thread of its own, never on the event loop."""

    def __init__(self, classifier: Sees) -> None:
        self._classifier = classifier

    async def complete(
        self,
        call: Call[Answer],
        job_id: str,  # noqa: ARG002 - the port's; there is no provider whose log could name it
        on_text: Callable[[str], None],
        before_send: Callable[[], Awaitable[None]] = no_gate,
    ) -> Reply[Answer]:
        """Answers by `call.local`. Raises `ProviderRefused` for a call or a picture it cannot answer."""
        await before_send()
        if call.local is None:
            raise ProviderRefused(
                f"the call '{call.kind}' needs a language model, and none is offered here",
                code="MODEL_REQUIRED",
            )
        labels = () if call.image is None else await asyncio.to_thread(self._see, call.image)
        value = call.local(labels)
        if call.stream and isinstance(value, str):
            on_text(value)  # whole: the answer follows at once, and what comes after it is never shown
        return Reply(value, NAME, Usage(cost=Decimal(0)))

    def _see(self, url: str) -> tuple[Label, ...]:
        from eco2.llm.picture import image_bytes

        return self._classifier.classify(image_bytes(url))


async def open_local() -> LocalModel:
    """The model, ready to answer. Raises `ConfigurationError` where `eco2[local]` is not installed."""
    from eco2.llm.classifier import open_classifier

    return LocalModel(await asyncio.to_thread(open_classifier))
