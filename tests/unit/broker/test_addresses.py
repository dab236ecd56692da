"""ECO2_AMQP_URL: what can be read is read, and what is wrong is refused without a part of it being shown."""

from contextlib import suppress
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eco2.broker.addresses import Address, parse
from eco2.environment import load
from eco2.errors import ConfigurationError

PASSWORD = "s3cr3t"


def urls(text: str) -> list[str]:
    return [address.url for address in parse(text)]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("amqp://u:p@host:5673/v", ["amqp://u:p@host:5673/v"]),
        ("amqp://host", ["amqp://guest:guest@host:5672/%2F"]),
        ("AMQPS://u:p@host/", ["amqps://u:p@host:5671/%2F"]),
        ("amqp://u:p@host//", ["amqp://u:p@host:5672/%2F"]),
        ("amqp://u:p@host/%2f", ["amqp://u:p@host:5672/%2F"]),
        ("amqp://u:p%2F%23%3F%40%3A%25,$!@host", ["amqp://u:p%2F%23%3F%40%3A%25%2C%24%21@host:5672/%2F"]),
        ("amqp://u:p@[::1]:5673", ["amqp://u:p@[::1]:5673/%2F"]),
        (' \ufeff"amqp://u:p@host"\r\n', ["amqp://u:p@host:5672/%2F"]),
        ("“amqp://u:p@host”", ["amqp://u:p@host:5672/%2F"]),
        (
            "amqp://u:p@one,two:5673,[::1]/v",
            [f"amqp://u:p@{h}/v" for h in ("one:5672", "two:5673", "[::1]:5672")],
        ),
        ("amqp://u:p@one/v, amqp://w:q@two/v", ["amqp://u:p@one:5672/v", "amqp://w:q@two:5672/v"]),
        ("amqps://u:p@localhost?no_verify_ssl=1", ["amqps://u:p@localhost:5671/%2F?no_verify_ssl=1"]),
        ("amqps://host?auth=external", ["amqps://guest:guest@host:5671/%2F?auth=external"]),
    ],
)
def test_what_can_be_read_is_read(text: str, read: list[str]) -> None:
    assert urls(text) == read


@pytest.mark.parametrize("raw", ["#", "/", "?", "@", ":", "%", "%zz", "/?#", "@@", "a/b@c"])
@pytest.mark.parametrize("shape", ["{p}{raw}{p}", "{raw}{p}", "{p}{raw}"])
@pytest.mark.parametrize("end", ["@host", "@host:5672", "@host:5672/v", "@one,two/v"])
def test_a_character_that_must_be_escaped_is_refused_with_its_escape(raw: str, shape: str, end: str) -> None:
    text = f"amqp://user:{shape.format(p=PASSWORD, raw=raw)}{end}"
    with pytest.raises(ValueError, match="%23 for #, %2F for /") as refused:
        parse(text)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "must look like amqp://"),
        (f"user:{PASSWORD}@host", "must look like amqp://"),
        (f"http://user:{PASSWORD}@host", "must look like amqp://"),
        (f"amqp:/user:{PASSWORD}@host", "must look like amqp://"),
        (f"amqp://user:{PASSWORD}@host:99999/", "1 to 65535"),
        (f"amqp://user:{PASSWORD}@host:0", "1 to 65535"),
        (f"amqp://user:{PASSWORD}@host:-1", "1 to 65535"),
        (f"amqp://user:{PASSWORD}@host:", "1 to 65535"),
        (f"amqp://user:{PASSWORD}", "1 to 65535"),
        (f"amqp://user:{PASSWORD}@", "no host"),
        (f"amqp://user:{PASSWORD}@:5672/v", "no host"),
        (f"amqp://user:{PASSWORD}@/v", "no host"),
        (f"amqp://user:{PASSWORD}@one,,two", "no host"),
        (f"amqp://user:{PASSWORD}@one,", "no host"),
        (f"amqp://user:{PASSWORD}@one;two", "no host name"),
        (f"amqp://user:{PASSWORD}@300.1.1.1", "neither a host name"),
        (f"amqp://user:{PASSWORD}@[1::2::3]", "neither a host name"),
        (f"amqp://user:{PASSWORD}@{'x' * 64}.example", "neither a host name"),
        (f"amqp://:{PASSWORD}@host", "no user"),
        ("amqp://user:@host", "no password"),
        ("amqp://user@host", "no password"),
        (f"amqp://user:{PASSWORD} {PASSWORD}@host", "blank"),
        (f"amqp://user:{PASSWORD}\n{PASSWORD}@host", "blank"),
        (f"amqp://user:{PASSWORD}%ff@host", "%25 for %"),
        (f"amqp://user:{PASSWORD}@host?heartbeat=30", "ECO2_HEARTBEAT"),
        (f"amqps://user:{PASSWORD}@host?verify=none", "verify"),
        (f"amqps://user:{PASSWORD}@host?no_verify_ssl=1", "cafile"),
        (f"amqps://user:{PASSWORD}@localhost,host?no_verify_ssl=1", "cafile"),
        (f"amqps://user:{PASSWORD}@localhost?no_verify_ssl=true", "0 or 1"),
        (f"amqps://user:{PASSWORD}@host?no_verify_ssl", "name=value"),
        (f"amqp://user:{PASSWORD}@host?cafile=/ca.pem", "amqps://"),
        (f"amqps://user:{PASSWORD}@host?keyfile=/key.pem", "certfile"),
        (f"amqp://user:{PASSWORD}@one/v,amqp://user:{PASSWORD}@two/w", "one vhost"),
    ],
)
def test_what_is_wrong_is_refused_at_the_start_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, text: str, advice: str
) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        parse(text)
    assert advice in str(refused.value)
    if text:
        monkeypatch.setenv("ECO2_AMQP_URL", text)
        with pytest.raises(ConfigurationError, match="ECO2_AMQP_URL") as at_start:
            load()
        assert advice in str(at_start.value)
        assert PASSWORD not in str(at_start.value)


def test_a_blank_url_is_no_wish_for_the_broker_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for blank in (" ", "\n", '""', "\ufeff"):
        monkeypatch.setenv("ECO2_AMQP_URL", blank)
        with pytest.raises(ConfigurationError, match="ECO2_AMQP_URL is blank"):
            load()


def test_a_certificate_that_is_not_there_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "empty.pem").touch()
    for query in (f"cafile={folder}/none.pem", f"cafile={folder}/empty.pem", f"certfile={folder}/empty.pem"):
        monkeypatch.setenv("ECO2_AMQP_URL", f"amqps://user:{PASSWORD}@host?{query}")
        with pytest.raises(ConfigurationError, match=r"ECO2_AMQP_URL: names"):
            load()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_advice(text: str) -> None:
    for url in (text, f"amqp://{text}", f"amqp://user:{text}@host", f"amqps://host?{text}"):
        with suppress(Refused):
            addresses = read_or_refuse(url)
            assert parse(",".join(address.url for address in addresses)) == addresses


class Refused(Exception):
    """A ValueError of exactly that type: UnicodeError and its like quote what they could not read."""


def read_or_refuse(url: str) -> tuple[Address, ...]:
    try:
        return parse(url)
    except ValueError as error:
        if type(error) is not ValueError:
            raise TypeError(f"{type(error)} for {url!r}") from error
        raise Refused from error


@given(st.text(min_size=1, max_size=30).filter(lambda text: text.isprintable()))
def test_every_password_that_is_escaped_arrives(password: str) -> None:
    (address,) = parse(f"amqp://user:{quote(password, safe='')}@host/v")
    assert address.password == password
    assert parse(address.url) == (address,)
