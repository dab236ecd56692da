"""Settings as files, shells and Kubernetes give them: cleaned at their ends, and unknown names refused."""

import os

import pytest

from eco2.environment import load
from eco2.errors import ConfigurationError
from eco2.remote import clean
from eco2.settings import Settings
from eco2.variables import of_services

KEY = "sk-proj-0123456789"


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as raised:
        load()
    return str(raised.value)


DIRT = [
    "{}\n",
    " {}",
    "{}\r\n",
    "\ufeff{}",
    '"{}"',
    "'{}'",
    "“{}”",
    "‘{}’",
    "\ufeff'{}' \n",
    "\u200b{}\u00a0",
    "'\"{}\"'",
]


@pytest.mark.parametrize("dirt", DIRT)
def test_what_copying_added_is_stripped(dirt: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "OPENAI_API_KEY": KEY,
        "OPENAI_BASE_URL": "https://llm.example/v1",
        "ECO2_AMQP_URL": "amqp://u:p@broker:5672/",
        "ECO2_PREFIX": "shop",
        "ECO2_RPM": "77",
        "ECO2_JOB_DEADLINE": "99.5",
        "ECO2_AUTH": "none",
        "ECO2_DAILY_USD": "1.50",
        "ECO2_PROVIDERS__GEMINI__API_KEY": KEY,
        "ECO2_PROVIDERS__GEMINI__MODEL": "gemini-x",
        "ECO2_PROVIDERS__GEMINI__RPM": "5",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, dirt.format(value))
    found = load()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    assert found == load()
    assert found.openai_api_key is not None
    assert found.openai_api_key.get_secret_value() == KEY
    assert found.providers["gemini"].api_key.get_secret_value() == KEY


@pytest.mark.parametrize("blank", [" ", "\n", "\ufeff", '""', "“”", "' '", "\t\r\n"])
@pytest.mark.parametrize(
    "name", ["ECO2_AMQP_URL", "ECO2_RPM", "ECO2_HOST", "ECO2_PIPELINES", "ECO2_DAILY_USD"]
)
def test_a_value_of_blanks_alone_is_refused(name: str, blank: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"\n{name}" in refusal(monkeypatch, **{name: blank})


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ECO2_RPMM", "ECO2_RPM"),
        ("ECO2_PREFECH", "ECO2_PREFETCH"),
        ("eco2_rpmm", "ECO2_RPM"),
        ("ECO2_AMPQ_URL", "ECO2_AMQP_URL"),
        ("ECO2_OPENAI_API_KEY", "OPENAI_API_KEY"),
        ("ECO2_MAXWAIT", "ECO2_MAX_WAIT"),
        ("ECO2_LOGLEVEL", "ECO2_LOG_LEVEL"),
    ],
)
def test_a_typing_error_is_refused_with_what_was_meant(
    name: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"unknown {name}; did you mean {meant}?" in refusal(monkeypatch, **{name: "5"})


def test_a_name_like_no_other_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    text = refusal(monkeypatch, ECO2_ZZZQQQ="secret-value", ECO2_RPM="0", ECO2_PROVIDER__X__API_KEY="sk-x")
    assert "unknown ECO2_ZZZQQQ; unset it" in text
    assert "ECO2_RPM=0" in text  # all at once
    assert "unknown ECO2_PROVIDER__X__API_KEY" in text
    assert "secret-value" not in text
    assert "sk-x" not in text


def service(name: str, port: int) -> dict[str, str]:
    """Returns what Kubernetes puts into each pod's environment for a Service with one port named http."""
    base, address = name.upper().replace("-", "_"), "10.96.0.11"
    return {
        f"{base}_SERVICE_HOST": address,
        f"{base}_SERVICE_PORT": str(port),
        f"{base}_SERVICE_PORT_HTTP": str(port),
        f"{base}_PORT": f"tcp://{address}:{port}",
        f"{base}_PORT_{port}_TCP": f"tcp://{address}:{port}",
        f"{base}_PORT_{port}_TCP_PROTO": "tcp",
        f"{base}_PORT_{port}_TCP_PORT": str(port),
        f"{base}_PORT_{port}_TCP_ADDR": address,
    }


@pytest.mark.parametrize("name", ["eco2", "eco2-gateway", "eco2-worker", "eco2-port", "eco2-rabbitmq-nodes"])
def test_the_links_of_a_service_stop_no_pod(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    links = service(name, 8000)
    for variable, value in links.items():
        monkeypatch.setenv(variable, value)
    assert load() == Settings()
    assert of_services(links) == set(links)


def test_beside_the_links_of_a_service_a_port_is_still_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in service("eco2", 8000).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setenv("ECO2_PORT", "8080")
    monkeypatch.setenv("ECO2_WORKER_PORT", "8081")
    assert (load().port, load().worker_port) == (8080, 8081)
    assert "did you mean ECO2_PORT" in refusal(monkeypatch, ECO2_PORTT="1")


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("ECO2_RPM", "1000000000", "1000000"),
        ("ECO2_TPM", "100000000000", "10000000000"),
        ("ECO2_PREFIX", "", "ECO2_PREFIX is empty"),
        ("ECO2_PREFIX", '""', "ECO2_PREFIX is empty"),
        ("ECO2_PREFIX", "a" * 101, "at most 100"),
        ("ECO2_CONCURRENCY", "1000000", "100000"),
        ("ECO2_RETENTION_HOURS", "1e9", "87600"),
        ("ECO2_JOB_DEADLINE", "1e9", "604800"),
        ("ECO2_PUBLISH_TIMEOUT", "1e9", "300"),
        ("ECO2_MAX_UPLOAD_MB", "1e6", "1000"),
        ("ECO2_HOST", "http://0.0.0.0", "without http://"),
        ("ECO2_HOST", "0.0.0.0:8000", "without a port"),
        ("ECO2_HOST", "a b", "an address"),
        ("ECO2_OPENAI_MODEL", "gpt 5", "blanks"),
        ("OPENAI_BASE_URL", "https://llm.example/v1?api-version=1", "a query or a fragment"),
        ("OPENAI_BASE_URL", "https://llm.example/v1#x", "a query or a fragment"),
        ("OPENAI_BASE_URL", "https://llm.example:99999/v1", "host or port"),
        ("OPENAI_BASE_URL", "https://llm.exam ple/v1", "blanks"),
        ("OPENAI_BASE_URL", "https://", "host or port"),
        ("OPENAI_BASE_URL", "https://llm.example/v1/chat/completions", "leave /chat/completions away"),
    ],
)
def test_what_cannot_be_meant_is_refused_at_the_start(
    name: str, value: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = refusal(monkeypatch, **{name: value})
    assert f"\n{name}" in text
    assert advice in text


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "localhost", "gateway.internal", "0.0.0.0"])
def test_addresses_and_names_are_hosts(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_HOST", host)
    assert load().host == host


def test_what_is_inside_a_value_is_kept() -> None:
    assert clean("it's") == "it's"
    assert clean("'") == "'"
