"""The models that an installation offers, by its settings, and how a worker opens them."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal

from eco2.call import Price
from eco2.errors import ConfigurationError
from eco2.llm.prices import price
from eco2.ports import Model
from eco2.settings import ProviderSettings, Settings

LOCAL = "local"
"""The name of the model that needs no key, and of its provider."""

FREE = Price(Decimal(), Decimal(), Decimal())

OnLimits = Callable[[str, float | None, float | None], None]
"""Receives a provider's name, and the requests and tokens per minute that its answers state."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A provider. `model`: the name that clients pin. `remote`: its settings; None for the local one."""

    name: str
    model: str
    remote: ProviderSettings | None

    @property
    def embeds(self) -> bool:
        """Returns whether its model embeds texts; only calls of a pipeline can name it."""
        return self.remote is not None and self.remote.embeddings

    @property
    def price(self) -> Price | None:
        """Returns what its calls cost; None if that is not known."""
        return FREE if self.remote is None else price(self.model)


def offers(settings: Settings) -> tuple[Offer, ...]:
    """Lists the providers of this installation, in order of preference. Raises `ConfigurationError`."""
    found = [Offer(name, remote.model, remote) for name, remote in settings.remotes.items()]
    if all(offer.embeds for offer in found) or settings.default_model == LOCAL:
        found.append(Offer(LOCAL, LOCAL, None))
    names = tuple(dict.fromkeys(offer.model for offer in found if not offer.embeds))
    if settings.default_model is not None and settings.default_model not in names:
        raise ConfigurationError(
            f"ECO2_DEFAULT_MODEL={settings.default_model} is not among {', '.join(names)}: set "
            "OPENAI_API_KEY and ECO2_OPENAI_MODEL (or ECO2_PROVIDERS__…) for a provider's, or unset it"
        )
    return tuple(found)


def model_names(settings: Settings) -> tuple[str, ...]:
    """Lists the models that clients may pin, in order of preference. Raises `ConfigurationError`."""
    return tuple(dict.fromkeys(offer.model for offer in offers(settings) if not offer.embeds))


@asynccontextmanager
async def open_models(
    settings: Settings, on_limits: OnLimits
) -> AsyncIterator[Sequence[tuple[Offer, Model]]]:
    """Opens the model of every offer; closes all after the block. Raises `ConfigurationError`."""
    async with AsyncExitStack() as stack:
        yield [(offer, await open_model(offer, on_limits, stack)) for offer in offers(settings)]


async def open_model(offer: Offer, on_limits: OnLimits, stack: AsyncExitStack) -> Model:
    """Opens one model; `stack` closes it."""
    if offer.remote is None:
        from eco2.llm.local import open_local

        return await open_local()
    from eco2.llm.openai import OpenAIModel

    provider = OpenAIModel(
        offer.remote.api_key.get_secret_value(),
        offer.remote.base_url,
        offer.model,
        lambda requests, tokens: on_limits(offer.name, requests, tokens),
    )
    stack.push_async_callback(provider.aclose)
    return provider
