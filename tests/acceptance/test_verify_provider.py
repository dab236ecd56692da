"""`make verify-provider`, with the fake in the place of a provider: what it says, and what it costs."""

import re
from asyncio import create_subprocess_exec, subprocess
from decimal import Decimal
from pathlib import Path

import pytest

from eco2.demo import MAX_USD, bounded_model
from eco2.errors import ConfigurationError
from eco2.fake.config import FakeConfig
from eco2.llm.prices import PRICES
from eco2.settings import Settings
from tests.acceptance.programs import clean_environment
from tests.support.fake_provider import running

ROOT = Path(__file__).parents[2]


async def verify(**env: str) -> tuple[int | None, str]:
    """Runs the target without what is set up by it; returns its exit code and output."""
    command = ("make", "--silent", "--old-file=setup", "verify-provider")
    process = await create_subprocess_exec(
        *command, cwd=ROOT, env={**clean_environment(), **env, "COLUMNS": "200"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    out, _ = await process.communicate()
    return process.returncode, out.decode()


async def test_a_key_is_verified_by_one_scan_whose_cost_is_said() -> None:
    async with running(FakeConfig(scale=0.0, api_keys=("good",))) as fake:
        code, out = await verify(OPENAI_API_KEY="good", OPENAI_BASE_URL=f"{fake.url}/v1")
        calls = await fake.calls()
        assert code == 0, out
        said = re.search(r"The provider works\. .* and cost (\d) calls?, .* tokens, \$([\d.]+)\.\n", out)
        assert said is not None, out
        assert Decimal(0) < Decimal(said[2]) < MAX_USD
        assert int(said[1]) == len(calls)
        code, out = await verify(OPENAI_API_KEY="bad", OPENAI_BASE_URL=f"{fake.url}/v1")
    assert code == 2  # of make; the program's is 3
    assert "The provider does not work with these settings" in out
    assert "It cost no calls" in out
    assert "401" in out


async def test_without_a_key_it_says_what_to_set() -> None:
    code, out = await verify()
    assert code == 2
    assert "set OPENAI_API_KEY" in out
    assert "less than 0.10 USD" in out


@pytest.mark.parametrize("model", PRICES)
def test_no_model_that_is_verified_can_cost_more(model: str) -> None:
    chosen, most = bounded_model(Settings(openai_api_key="key", openai_model=model))
    assert (chosen, most < MAX_USD) == (model, True)


def test_a_model_without_a_price_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not known to cost less"):
        bounded_model(Settings(openai_api_key="key", openai_model="unknown"))
