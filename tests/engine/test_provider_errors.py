"""A provider's refusal of one call, and its effect on the job, on others, on clients and on operators."""

from collections.abc import Callable

import pytest

from eco2.call import ModelRefused, UnreadableAnswer, Usage
from eco2.errors import (
    CallTooLarge,
    CallUnsupported,
    Eco2Error,
    InputRefused,
    ProviderAccessDenied,
    ProviderDown,
)
from eco2.journal.state import JobState
from eco2.operator.dead_jobs import end_error
from eco2.testing.clock import virtual
from tests.engine.test_providers import ONE_CALL, code, failing, message, two
from tests.support.world import Process, ScriptedModel, World

SECRET = "HTTP 401: Incorrect key; check OPENAI_API_KEY"
PAID = Usage(10, 0, 5)


async def states(process: Process, count: int) -> list[JobState]:
    return [await process.ended((await process.submit()).job) for _ in range(count)]


@virtual
@pytest.mark.parametrize("kind", [ProviderAccessDenied, CallUnsupported, CallTooLarge])
async def test_what_one_provider_does_not_take_another_does(kind: Callable[[str], Eco2Error]) -> None:
    closed, other = failing(kind(SECRET)), ScriptedModel()
    async with World().process(remotes=two(closed, other), pipeline=ONE_CALL) as process:
        (state,) = await states(process, 1)
    assert state.status == "completed"
    assert (len(closed.calls), len(other.calls)) == (1, 1)


@virtual
@pytest.mark.parametrize(
    "error",
    [
        InputRefused(SECRET),
        CallUnsupported(SECRET),
        CallTooLarge(SECRET),
        ModelRefused(SECRET, "m", PAID),
        UnreadableAnswer(SECRET, "m", PAID),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_one_users_input_never_opens_the_breaker(error: Eco2Error) -> None:
    model = failing(error)
    async with World().process(model, ONE_CALL) as process:
        ended = await states(process, 10)
        assert all(provider.up for provider in process.providers.values())
    assert {state.status for state in ended} == {"failed"}
    assert len(model.calls) == 10  # and none was asked for again


@virtual
@pytest.mark.parametrize("kind", [ProviderAccessDenied, CallUnsupported, InputRefused])
async def test_clients_read_no_word_of_the_provider_and_operators_do(
    kind: Callable[[str], Eco2Error],
) -> None:
    async with World().process(failing(kind(SECRET)), ONE_CALL) as process:
        (state,) = await states(process, 1)
    assert code(state) == "PROVIDER_REFUSED"
    for text in (message(state), str(state.result), *(str(event.result) for event in state.visible_events)):
        shown = text.replace(state.job, "")  # an id of random digits may hold the same ones
        assert "key" not in shown.lower()
        assert "401" not in shown
    assert (state.cause, end_error(state)) == (SECRET, ("PROVIDER_REFUSED", SECRET))


@virtual
async def test_the_cause_of_a_provider_that_stayed_away_is_kept_for_operators() -> None:
    async with World().process(failing(ProviderDown("HTTP 503: pool 7")), ONE_CALL) as process:
        state = await process.ended((await process.submit(max_wait=20)).job)
    assert "pool 7" not in str(state.result)
    assert "pool 7" in state.cause or code(state) == "TIMEOUT"
