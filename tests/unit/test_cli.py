"""The command line: help, exit codes, and errors that say what to do."""

import importlib.util
import socket

import pytest
from typer.testing import CliRunner

from eco2 import __version__, cli
from eco2.environment import load
from eco2.errors import ConfigurationError
from eco2.settings import Settings

COMMANDS = [
    "demo",
    "serve",
    "gateway",
    "worker",
    "scan",
    "topology",
    "jobs",
    "dead",
    "pause",
    "resume",
    "fake-openai",
    "settings",
    "size",
    "version",
]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ECO2_AMQP_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def invoke(*args: str) -> str:
    result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 0, result.output
    return result.output


def exit_of(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr("sys.argv", ["eco2", *args])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert isinstance(raised.value.code, int)
    return raised.value.code


def test_help_names_every_command_and_the_exit_codes() -> None:
    text = invoke("--help")
    assert [command for command in COMMANDS if command not in text] == []
    assert "Exit codes" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    assert len(invoke(command, "--help").splitlines()) > 5


def test_version() -> None:
    assert invoke("version").strip() == __version__


def test_settings_shows_values_units_and_what_was_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_PREFETCH", "7")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    text = invoke("settings")
    assert "ECO2_PREFETCH = 7 jobs (computed: 146)" in text
    assert "ECO2_CONCURRENCY = 140 calls (computed)" in text
    assert "run at least 16 workers" in text
    assert "OPENAI_API_KEY = (set)" in text
    assert "sk-secret" not in text


def test_topology_show_needs_no_broker() -> None:
    assert "eco2.jobs.scan" in invoke("topology", "show")


@pytest.mark.parametrize(
    ("args", "env", "says"),
    [
        (["gateway"], {}, "set ECO2_AMQP_URL"),
        (["worker"], {}, "set ECO2_AMQP_URL"),
        (["serve"], {"ECO2_PREFETCH": "none"}, "ECO2_PREFETCH=none"),
        (["serve"], {"ECO2_PIPELINES": "eco2.nowhere:x"}, "cannot import 'eco2.nowhere:x'"),
        (["serve"], {"ECO2_PIPELINES": "eco2.job:Job"}, "not a Pipeline"),
        (["serve"], {"ECO2_DEFAULT_MODEL": "gpt-9"}, "gpt-9 is not among local"),
        (["topology", "check"], {}, "set ECO2_AMQP_URL"),
        (["dead", "list"], {}, "set ECO2_AMQP_URL"),
        (["jobs", "list"], {}, "set ECO2_AMQP_URL"),
        (["pause"], {}, "set ECO2_AMQP_URL"),
        (["dead", "drop"], {}, "--all"),
        (["dead", "replay", "some-job", "--all"], {}, "--all"),
        (["topology", "show"], {"ECO2_PREFIX": "Eco.2"}, "Eco"),
        (["gateway"], {"ECO2_AMQP_URL": "amqp://user:pa#ss@host/"}, "%23 for #"),
        (["worker"], {"ECO2_AMQP_URL": "amqp://user:pa/ss?@host/"}, "%2F for /"),
        (["gateway"], {"ECO2_AMQP_URL": "amqp://user:pass@host:99999/"}, "1 to 65535"),
        (["worker"], {"OPENAI_API_KEY": "\n"}, "OPENAI_API_KEY: it is blank"),
    ],
)
def test_what_cannot_start_exits_with_2_and_says_what_to_change(
    args: list[str],
    env: dict[str, str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert exit_of(monkeypatch, *args) == 2
    assert says in capsys.readouterr().err


def test_a_gateway_that_does_not_answer_exits_with_4(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    photo = tmp_path_factory.mktemp("photo") / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr("eco2.demo.CLIENT_TIMEOUT", 0.0)
    assert exit_of(monkeypatch, "scan", str(photo), "--url", "http://127.0.0.1:9") == 4
    assert "127.0.0.1:9" in capsys.readouterr().err


@pytest.mark.parametrize("args", [["jobs", "list"], ["dead", "list"], ["resume"], ["topology", "check"]])
def test_a_broker_that_does_not_answer_exits_with_4(
    args: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECO2_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/")
    assert exit_of(monkeypatch, *args) == 4
    assert "ECO2_AMQP_URL" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_of(monkeypatch, "scan", "/does/not/exist.jpg") == 2


def test_the_cause_within_nested_groups_decides_the_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ExceptionGroup("outer", [ExceptionGroup("inner", [ConfigurationError("change this")])])

    monkeypatch.setattr(cli, "app", fail)
    assert exit_of(monkeypatch) == 2
    assert "change this" in capsys.readouterr().err


def test_the_version_is_an_option_too() -> None:
    assert invoke("--version").strip() == __version__


@pytest.mark.parametrize("args", [[], ["serve"], ["jobs"], ["jobs", "list"], ["topology", "check"], ["scan"]])
def test_h_is_help(args: list[str]) -> None:
    assert invoke(*args, "-h") == invoke(*args, "--help")


@pytest.mark.parametrize("command", ["demo", "serve", "gateway", "worker", "fake-openai"])
def test_address_and_port_can_be_given(command: str) -> None:
    text = invoke(command, "--help")
    assert "--host" in text
    assert "--port" in text


def test_the_command_line_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_PORT", "none")
    monkeypatch.setenv("ECO2_HOST", "0.0.0.0")
    assert load({"port": 1234}).port == 1234
    assert load({"port": 1234}).host == "0.0.0.0"
    assert load({"port": 1234, "host": "::1"}).host == "::1"
    monkeypatch.setattr("eco2.cli._process", lambda role, settings: found.append((role, settings)))
    found: list[tuple[str, Settings]] = []
    invoke("gateway", "--port", "1", "--host", "127.0.0.2")
    monkeypatch.delenv("ECO2_PORT")
    invoke("worker", "--port", "2", "--host", "127.0.0.3")
    (_, gateway), (_, worker) = found
    assert (gateway.host, gateway.port) == ("127.0.0.2", 1)
    assert (worker.worker_host, worker.worker_port, worker.port) == ("127.0.0.3", 2, 8000)


@pytest.mark.parametrize("args", [["--host", "http://x"], ["--host", "0.0.0.0:80"], ["--port", "65536"]])
def test_a_wrong_address_exits_with_2(args: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert exit_of(monkeypatch, "serve", *args) == 2


def test_the_fake_provider_names_the_extra_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "bpe_openai" else find(name))
    assert exit_of(monkeypatch, "fake-openai", "--port", "0") == 2
    assert "pip install 'eco2[fake]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "advice"), [(["serve"], "ECO2_PORT or --port"), (["worker"], "ECO2_WORKER_PORT or --port")]
)
def test_a_port_in_use_names_the_setting(
    args: list[str], advice: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECO2_AMQP_URL", "amqp://guest:guest@127.0.0.1:1/")
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert exit_of(monkeypatch, *args, "--port", str(other.getsockname()[1])) == 2
    errors = capfd.readouterr().err
    assert advice in errors.splitlines()[-1]
    assert "Traceback" not in errors
