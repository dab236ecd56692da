"""The models that clients may name, and those that only calls of a pipeline may."""

from typing import Any

import pytest

from eco2.errors import ConfigurationError
from eco2.llm.prices import EMBEDDINGS, PRICES
from eco2.models import FREE, LOCAL, model_names, offers
from eco2.settings import Settings

EMBED = {"api_key": "key", "model": "text-embedding-3-small", "embeddings": True}
CHAT = {"api_key": "key", "model": "gemini"}


@pytest.mark.parametrize(
    ("providers", "names", "offered"),
    [
        ({}, (LOCAL,), [(LOCAL, False)]),
        ({"chat": CHAT}, ("gemini",), [("chat", False)]),
        ({"chat": CHAT, "embed": EMBED}, ("gemini",), [("chat", False), ("embed", True)]),
        ({"embed": EMBED}, (LOCAL,), [("embed", True), (LOCAL, False)]),
    ],
)
def test_a_provider_of_embeddings_is_offered_beside_the_models_of_clients(
    providers: dict[str, Any], names: tuple[str, ...], offered: list[tuple[str, bool]]
) -> None:
    settings = Settings(providers=providers)
    assert model_names(settings) == names
    assert [(offer.name, offer.embeds) for offer in offers(settings)] == offered


def test_the_price_of_an_offer_is_that_of_its_model() -> None:
    settings = Settings(
        openai_api_key="key",
        providers={"chat": CHAT, "embed": EMBED},
        default_model=LOCAL,
    )
    prices = {offer.name: offer.price for offer in offers(settings)}
    assert prices == {
        "openai": PRICES["gpt-5.1"],
        "chat": None,
        "embed": EMBEDDINGS["text-embedding-3-small"],
        "local": FREE,
    }


def test_no_job_goes_to_a_model_that_only_embeds() -> None:
    settings = Settings(providers={"chat": CHAT, "embed": EMBED}, default_model="text-embedding-3-small")
    with pytest.raises(ConfigurationError, match="not among gemini"):
        offers(settings)
