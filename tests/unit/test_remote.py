"""The key, the URL and the model name of a provider: cleaned, or refused at the start with advice."""

import os

import pytest

from eco2 import remote
from eco2.environment import load, overview
from eco2.errors import ConfigurationError

KEY = "sk-proj-4f7Q"
WRAPPERS = ["{}\n", "{}\r\n", " {}\t", "\ufeff{}", "\u200b{}\u200b", '"{}"', "'{}'", "“{}”", "‘{}’", "„{}“",
            "«{}»", '\ufeff"{}"\n', "\xa0{}\xa0", "\u2028{}", " ' {} ' \n"]  # fmt: skip
VARIABLES = {
    "OPENAI_API_KEY": KEY,
    "OPENAI_BASE_URL": "https://llm.example/v1",
    "ECO2_OPENAI_MODEL": "gpt-5-mini",
    "ECO2_PROVIDERS__G__API_KEY": KEY,
    "ECO2_PROVIDERS__G__BASE_URL": "http://[::1]:8080/v1/",
    "ECO2_PROVIDERS__G__MODEL": "models/gemini-2.5-flash",
}


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("ECO2_", "OPENAI_")):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_what_surrounds_a_copied_value_is_taken_off(wrapper: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, wrapper.format(value))
    remotes = load().remotes
    own, other = remotes["openai"], remotes["g"]
    assert own.api_key.get_secret_value() == other.api_key.get_secret_value() == KEY
    assert (own.base_url, own.model) == ("https://llm.example/v1", "gpt-5-mini")
    assert (other.base_url, other.model) == ("http://[::1]:8080/v1/", "models/gemini-2.5-flash")


@pytest.mark.parametrize(
    "key",
    [" ", "\n", "\ufeff", "“”", '""', "' '", "\u200b \t", "sk-a b", "sk-a\nb", "sk-ä", "sk-a\u200bb",
     "s\x7fk", "'sk-a", 'sk-a"', r"sk-a\n", "`sk-a", "sk-…", "Bearer sk-a", "“sk-a", "ｓｋ-a", "\u3000"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "ECO2_PROVIDERS__G__API_KEY"])
def test_a_key_that_no_header_can_carry_stops_the_start(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECO2_PROVIDERS__G__API_KEY", KEY)
    monkeypatch.setenv("ECO2_PROVIDERS__G__MODEL", "m")
    monkeypatch.setenv(name, key)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert name in str(caught.value)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["llm.example/v1", "//llm.example", "ftp://llm.example", "https://", "https:///v1", "https://llm.example?x=1",
     "https://llm.example/v1#x", "https://llm.example/v 1", "https://llm.example:0/v1", "https://llm.example:99999",
     "https://llm.example:port/v1", "https://[::1/v1", "https://llm.exämple/v1", " ", "“”", "https://a b",
     "https://llm.example/v1/chat/completions", "https://llm.example/v1/chat/completions/", "https://%zz/v1"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ECO2_PROVIDERS__G__BASE_URL"])
def test_a_url_that_cannot_be_called_stops_the_start(
    name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECO2_PROVIDERS__G__API_KEY", KEY)
    monkeypatch.setenv("ECO2_PROVIDERS__G__MODEL", "m")
    monkeypatch.setenv(name, url)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert name in str(caught.value)


@pytest.mark.parametrize("model", [" ", "\ufeff", "gpt 5", "gpt-5\nmini", "gpt\u200b5", '""'])
@pytest.mark.parametrize("name", ["ECO2_OPENAI_MODEL", "ECO2_PROVIDERS__G__MODEL", "ECO2_DEFAULT_MODEL"])
def test_a_model_name_with_blanks_stops_the_start(
    name: str, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ECO2_PROVIDERS__G__API_KEY", KEY)
    monkeypatch.setenv("ECO2_PROVIDERS__G__MODEL", "m")
    monkeypatch.setenv(name, model)
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert name in str(caught.value)


@pytest.mark.parametrize("url", ["https://ann:s3cret@llm.example/v1", "https://ann:s3/cret@llm.example?x=1",
                                 "ann:s3cret@llm.example", "https://:s3cret@llm.example/v1"])  # fmt: skip
@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "ECO2_PROVIDERS__G__BASE_URL"])
def test_a_login_in_a_url_is_never_shown(name: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECO2_PROVIDERS__G__API_KEY", KEY)
    monkeypatch.setenv("ECO2_PROVIDERS__G__MODEL", "m")
    monkeypatch.setenv(name, url)
    try:
        text = "\n".join(overview(load()))
    except ConfigurationError as error:
        text = str(error)
    assert "cret" not in text
    assert "ann" not in text


def test_a_login_is_separated_from_the_url_that_is_called() -> None:
    url = remote.base_url("https://ann:s3cret@llm.example:8443/v1")
    assert remote.without_login(url) == ("https://llm.example:8443/v1", ("ann", "s3cret"))
    assert remote.without_login("https://llm.example/v1") == ("https://llm.example/v1", None)
