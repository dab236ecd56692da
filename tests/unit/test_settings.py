"""Settings: defaults that work, messages that say what to do, secrets kept, docs current."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from eco2.environment import load, markdown, overview
from eco2.errors import ConfigurationError
from eco2.settings import (
    GROUPS,
    BudgetSettings,
    ProviderSettings,
    Settings,
    conflicts,
    deprecations,
    size_for_scans,
    warnings,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


def test_the_defaults_work_together() -> None:
    settings = load()
    assert settings.amqp_url is None
    assert settings.pipeline_imports == ("eco2.stages:scan",)
    assert settings.allowed_origins == ()
    assert settings.prefetch >= settings.concurrency


def test_values_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_AMQP_URL", "amqps://u:p@broker:5671/vhost")
    monkeypatch.setenv("ECO2_PIPELINES", "eco2.stages:scan, tests.echo:echo")
    monkeypatch.setenv("ECO2_CORS_ORIGINS", "https://app.example,http://localhost:3000")
    monkeypatch.setenv("ECO2_JOB_DEADLINE", "90.5")
    settings = load()
    assert settings.amqp_url == "amqps://u:p@broker:5671/vhost"
    assert settings.pipeline_imports == ("eco2.stages:scan", "tests.echo:echo")
    assert settings.allowed_origins == ("https://app.example", "http://localhost:3000")
    assert (settings.max_wait, settings.timeout) == (90.5, 90.5)


@pytest.mark.parametrize(
    ("more", "expected"),
    [({}, (90, 90)), ({"ECO2_MAX_WAIT": "60"}, (60, 90)), ({"ECO2_TIMEOUT": "75"}, (90, 75))],
)
def test_the_deadline_of_release_01_sets_both_times_unless_they_are_set_and_says_their_names(
    monkeypatch: pytest.MonkeyPatch, more: dict[str, str], expected: tuple[float, float]
) -> None:
    assert deprecations(load()) == []
    for name, value in {"ECO2_JOB_DEADLINE": "90", **more}.items():
        monkeypatch.setenv(name, value)
    settings = load()
    assert (settings.max_wait, settings.timeout) == expected
    (said,) = deprecations(settings)
    assert "ECO2_MAX_WAIT" in said
    assert "ECO2_TIMEOUT" in said
    assert said in warnings(settings)


def test_each_entry_of_a_list_is_cleaned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_CORS_ORIGINS", "https://app.example\u200b, “http://[::1]:3000”,\n")
    monkeypatch.setenv("ECO2_HOSTS", "api.example\ufeff,'b.example'")
    settings = load()
    assert settings.allowed_origins == ("https://app.example", "http://[::1]:3000")
    assert settings.allowed_hosts == ("api.example", "b.example")


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_AMQP_URL", "")
    monkeypatch.setenv("ECO2_PREFETCH", "")
    assert load() == Settings()


def test_variables_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_TEST_AMQP_URL", "amqp://elsewhere")
    assert load() == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "advice"),
    [
        ("ECO2_AMQP_URL", "http://broker", "amqp://user:password@host"),
        ("ECO2_PREFIX", "A_b", "lower-case letters, digits"),
        ("ECO2_PIPELINES", "eco2.stages", "package.module:name"),
        ("ECO2_PIPELINES", " , ", "package.module:name"),
        ("ECO2_PREFETCH", "-1", "greater than or equal to 0"),
        ("ECO2_RPM", "0", "greater than or equal to 1"),
        ("ECO2_PREFETCH", "many", "integer"),
        ("ECO2_JOB_DEADLINE", "inf", "finite"),
        ("ECO2_CORS_ORIGINS", "*", "exact origin"),
        ("ECO2_CORS_ORIGINS", "https://app.example/", "exact origin"),
        ("ECO2_CORS_ORIGINS", "https://App.example", "in lower case"),
        ("ECO2_CORS_ORIGINS", "https://äpp.example", "xn--"),
        ("ECO2_CORS_ORIGINS", 'https://app.example",https://b.example', "exact origin"),
        ("ECO2_HOSTS", "api.example:443", "without a port"),
        ("ECO2_SSE_COMMENT", "120", "less than or equal to 40"),
        ("ECO2_LOG_LEVEL", "loud", "'debug', 'info'"),
        ("OPENAI_BASE_URL", "localhost:8000", "http://"),
    ],
)
def test_a_wrong_value_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert f"\n{variable}" in str(raised.value)
    assert advice in str(raised.value)
    assert "default" in str(raised.value)


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_PORT", "-1")
    monkeypatch.setenv("ECO2_PREFETCH", "-1")
    with pytest.raises(ConfigurationError, match=r"(?s)ECO2_PREFETCH.*ECO2_PORT"):
        load()


@pytest.mark.parametrize(
    ("values", "to_change"),
    [
        ({"ECO2_CALL_TIMEOUT": "70"}, "ECO2_DRAIN_GRACE"),
        ({"ECO2_TIMEOUT": "60"}, "ECO2_TIMEOUT"),
        ({"ECO2_RETENTION_HOURS": "0.9"}, "ECO2_RETENTION_HOURS"),
        ({"ECO2_MAX_WAIT": "259021"}, "ECO2_RETENTION_HOURS"),
        ({"ECO2_JOB_DEADLINE": "129601"}, "ECO2_RETENTION_HOURS"),
    ],
)
def test_settings_that_contradict_each_other_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], to_change: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=rf"\n{to_change} \("):
        load()


@pytest.mark.parametrize(
    "values",
    [
        {"ECO2_CALL_TIMEOUT": "69.9"},
        {"ECO2_TIMEOUT": "60.1"},
        {"ECO2_MAX_WAIT": "259020"},
        {"ECO2_RETENTION_HOURS": "1"},
    ],
)
def test_settings_just_inside_their_bounds_start(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str]
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert conflicts(load()) == []


def test_what_a_worker_holds_follows_from_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    for rpm in (10, 100, 500, 30_000):
        monkeypatch.setenv("ECO2_RPM", str(rpm))
        monkeypatch.setenv("ECO2_TPM", "400000")
        settings, sizing = load(), size_for_scans(rpm, 400_000)
        assert (settings.prefetch, settings.concurrency) == (sizing.prefetch, sizing.concurrency)


def test_what_is_set_stands_and_zero_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_PREFETCH", "7")
    monkeypatch.setenv("ECO2_CONCURRENCY", "0")
    assert (load().prefetch, load().concurrency) == (7, Settings().concurrency)


def test_a_wrong_budget_is_all_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_TPM", "none")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert str(raised.value).count("\n") == 1


SPARE = {"api_key": "key", "model": "gemini-2.5-flash"}


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        ({"prefetch": 139}, r"ECO2_PREFETCH \(139 jobs\).*ECO2_CONCURRENCY \(140 calls\)"),
        ({"concurrency": 108}, "at most 108 calls.*allow 108: run at least 2 workers"),
        ({"concurrency": 40, "prefetch": 40}, "run at least 3 workers"),
        ({"tpm": 1999}, r"ECO2_TPM \(1999\)"),
        ({"openai_api_key": "key", "providers": {"spare": SPARE}}, r"all providers together.*\(280 calls\)"),
        ({"publish_timeout": 9}, r"ECO2_HOLDER_TIMEOUT \(15 s\)"),
        ({"holder_timeout": 11.4}, r"ECO2_HOLDER_TIMEOUT \(11.4 s\)"),
    ],
)
def test_what_leaves_budget_unused_or_pays_twice_is_said_and_starts(
    values: dict[str, object], advice: str
) -> None:
    (warning,) = warnings(Settings.model_validate(values))
    assert re.search(advice, warning)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rpm": 1},
        {"rpm": 100_000, "tpm": 10**9},
        {"concurrency": 109},
        {"tpm": 2000},
        {"prefetch": 70, "pipelines": "a:b, c:d"},
    ],
)
def test_what_uses_the_whole_budget_leaves_no_doubt(values: dict[str, object]) -> None:
    settings = Settings.model_validate(values)
    assert warnings(settings) == []
    assert overview(settings) == [line for line in overview(settings) if " = " in line.partition("\n")[0]]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("ECO2_AMQP_URL", "amqp://user:secret@broker")
    settings = load()
    assert settings.openai_api_key == SecretStr("sk-secret")
    assert "secret" not in repr(settings)
    monkeypatch.setenv("ECO2_AMQP_URL", "user:secret@broker")
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


GEMINI = {"ECO2_PROVIDERS__GEMINI__API_KEY": "sk-secret", "ECO2_PROVIDERS__GEMINI__MODEL": "flash"}


def test_a_provider_comes_from_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**GEMINI, "ECO2_PROVIDERS__GEMINI__RPM": "150"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ECO2_PROVIDERS__GEMINI__TPM", "")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-own")
    remotes = load().remotes
    assert list(remotes) == ["openai", "gemini"]
    gemini = remotes["gemini"]
    assert (gemini.model, gemini.rpm, gemini.tpm) == (
        "flash",
        150,
        ProviderSettings.model_fields["tpm"].default,
    )
    assert gemini.concurrency == size_for_scans(150, gemini.tpm).concurrency
    assert "secret" not in "\n".join(overview(load()))


def test_a_budget_comes_from_variables_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_BUDGETS__MAPS__RPM", "50")
    monkeypatch.setenv("ECO2_BUDGETS__GEO2__RPM", "20")
    monkeypatch.setenv("ECO2_BUDGETS__GEO2__TPM", "1000")
    budgets = load().budgets
    assert {name: (one.rpm, one.tpm) for name, one in budgets.items()} == {
        "maps": (50, None),
        "geo2": (20, 1000),
    }
    assert any("maps, geo2" in line or "geo2, maps" in line for line in overview(load()))


@pytest.mark.parametrize(
    ("values", "advice"),
    [
        (
            {"ECO2_PROVIDERS__GEMINI__APIKEY": "sk-secret", "ECO2_PROVIDERS__GEMINI__MODEL": "flash"},
            "GEMINI__APIKEY is no setting: did you mean ECO2_PROVIDERS__GEMINI__API_KEY?",
        ),
        ({"ECO2_PROVIDERS__GEMINI__API_KEY": "sk-secret"}, "ECO2_PROVIDERS__GEMINI__MODEL is missing"),
        (
            {**GEMINI, "ECO2_PROVIDERS__GEMINI__PRICE": "sk-secret"},
            "A provider's settings are API_KEY, BASE_URL, MODEL,",
        ),
        ({"ECO2_PROVIDERS__GEMINI_API_KEY": "sk-secret"}, "two underscores on both sides"),
        ({**GEMINI, "ECO2_PROVIDERS__GEMINI__RPM": "many"}, "ECO2_PROVIDERS__GEMINI__RPM=many: .*integer"),
        ({**GEMINI, "ECO2_PROVIDERS__GEMINI__COUNTING": "all"}, "COUNTING=all: .*'request', 'input'"),
        (
            {**GEMINI, "ECO2_PROVIDERS__GEMINI__BASE_URL": "googleapis"},
            "BASE_URL=googleapis: must be an http",
        ),
        (
            {"ECO2_PROVIDERS__LOCAL__API_KEY": "sk-secret", "ECO2_PROVIDERS__LOCAL__MODEL": "m"},
            "'local' cannot be a provider's name",
        ),
        ({"ECO2_PROVIDERS": "sk-secret"}, "ECO2_PROVIDERS or ECO2_BUDGETS is not valid JSON"),
        ({"ECO2_PROVIDERS": '["sk-secret"]'}, "ECO2_PROVIDERS: .*two underscores"),
        ({"ECO2_BUDGETS__MAPS__TPM": "5"}, "ECO2_BUDGETS__MAPS__RPM is missing: set it, or unset all of"),
        ({"ECO2_BUDGETS__MAPS__RPM": "0"}, "ECO2_BUDGETS__MAPS__RPM=0: .*greater than or equal to 1"),
        (
            {"ECO2_BUDGETS__MAPS__RPS": "secret"},
            "RPS is no setting: did you mean .*RPM[?] A budget's settings are RPM, TPM",
        ),
        ({"ECO2_BUDGETS__MAPS": "secret"}, "ECO2_BUDGETS.* is no setting|not valid JSON"),
        ({"ECO2_BUDGET__MAPS__RPM": "5"}, "unknown ECO2_BUDGET__MAPS__RPM.*ECO2_BUDGETS__NAME__RPM"),
        ({"ECO2_BUDGETS__OPENAI__RPM": "5"}, "'openai' cannot be a budget's name"),
        ({"ECO2_BUDGETS__MY_MAPS__RPM": "5"}, "'my_maps' cannot be a budget's name: use a-z, 0-9"),
        ({**GEMINI, "ECO2_BUDGETS__GEMINI__RPM": "5"}, "'gemini' cannot be a budget's name.*provider's"),
    ],
)
def test_a_wrong_variable_of_a_provider_is_named_with_its_cure_and_no_key(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], advice: str
) -> None:
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    assert re.search(advice, str(raised.value))
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().port = 1  # type: ignore[misc]


def test_the_documentation_is_current() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == markdown(), "run `make fix`"


def test_every_setting_is_documented_once_with_a_group_and_a_description() -> None:
    table = markdown()
    groups = (Settings, ProviderSettings, BudgetSettings)
    fields = sum(len(group.model_fields) for group in groups)
    assert sum(line.startswith("| `") for line in table.splitlines()) == fields
    assert all(f"## {group}\n" in table for group in GROUPS)
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ({}, True),
        ({"openai_base_url": "https://api.openai.com/v1"}, True),
        ({"openai_base_url": "https://api.openai.com.llm.example/v1"}, False),
        ({"openai_base_url": "http://llm:8000/v1"}, False),
        ({"openai_base_url": "http://llm:8000/v1", "image_urls": "on"}, True),
        ({"providers": {"own": {"api_key": "k", "model": "m", "base_url": "http://llm:8000/v1"}}}, False),
        ({"providers": {"more": {"api_key": "k", "model": "m"}}}, True),
        ({"image_urls": "off"}, False),
    ],
)
def test_picture_urls_are_taken_where_openai_fetches_them(values: dict[str, object], taken: bool) -> None:
    assert Settings.model_validate(values).takes_image_urls is taken
