"""The models that an installation offers, by its settings: which there are, and how a worker opens them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from eco2.errors import StartError
from eco2.llm.router import Router
from eco2.ports import Model
from eco2.settings import Settings

LOCAL = "local"
"""The name of the model that needs no key."""


def model_names(settings: Settings) -> tuple[str, ...]:
    """The models that clients may pin. Raises `StartError` if the default is none of them."""
    remote = (settings.openai_model,) if settings.openai_api_key is not None else ()
    local = (LOCAL,) if not remote or settings.model == LOCAL else ()
    names = remote + local
    if settings.model not in names:
        raise StartError(
            f"ECO2_DEFAULT_MODEL={settings.model} is not among {', '.join(names)}: set OPENAI_API_KEY and "
            "ECO2_OPENAI_MODEL for a provider's model, or unset it"
        )
    return names


@asynccontextmanager
async def open_models(settings: Settings) -> AsyncIterator[Router]:
    """Every model of `model_names`, ready to be called. Raises `StartError`."""
    models: dict[str, Model] = {}
    async with AsyncExitStack() as stack:
        for name in model_names(settings):
            models[name] = await _open(settings, name, stack)
        yield Router(models, settings.model)


async def _open(settings: Settings, name: str, stack: AsyncExitStack) -> Model:
    if name == LOCAL or settings.openai_api_key is None:
        from eco2.llm.local import open_local

        return await open_local()
    from eco2.llm.openai import OpenAIModel

    key = settings.openai_api_key.get_secret_value()
    provider = OpenAIModel(key, settings.openai_base_url, name, settings.call_timeout)
    stack.push_async_callback(provider.aclose)
    return provider
