"""One model under all its names: snapshots, routers' prefixes, fine-tuned copies."""

import pytest

from eco2.call import Call
from eco2.fake.models import family
from eco2.llm.openai import MIN_EFFORT
from eco2.llm.prices import PRICES, price
from eco2.tokens.images import image_tokens
from eco2.tokens.names import plain_name
from tests.unit.llm.test_openai_requests import body, sent

FORMS = [
    "{}-2025-08-07",
    "{}-20250807",
    "{}@2025-08-07",
    "openai/{}",
    "openrouter/openai/{}",
    "models/{}-2025-08-07",
    "openai/{}:free",
    "ft:{}-2025-08-07:org::id",
    "  {}  ",
]
PRICED = [form for form in FORMS if ":" not in form]


@pytest.mark.parametrize("form", [*FORMS, "{upper}"])
@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5", "gpt-5.1", "gpt-4o-mini", "gpt-4.1-nano"])
async def test_every_form_behaves_like_its_model(form: str, model: str) -> None:
    name = form.format(model, upper=model.upper())
    assert plain_name(name) == model
    assert price(name) is (PRICES[model] if ":" not in name else None)
    assert image_tokens(name, (800, 600)) == image_tokens(model, (800, 600))
    assert family(name) is family(model) or " " in name
    effort = body(await sent(Call("kind", "", "", str, 10), name)).get("reasoning_effort")
    assert effort == MIN_EFFORT.get(model)


@pytest.mark.parametrize("name", ["gpt-5-chat-latest", "gpt-5.1-2025-11", "gpt-5-pro", "gpt-55", "llama", ""])
def test_another_model_is_no_form_of_it(name: str) -> None:
    assert plain_name(name) not in PRICES
    assert plain_name(name) not in MIN_EFFORT
