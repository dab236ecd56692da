"""Checks the three texts that reach a provider from the environment: its key, its URL, its model's name.

Pure. Copied values carry line ends, byte order marks and quotes; these are removed. A value that cannot be
sent raises `ValueError` with the correction, so that no process starts with it. No message quotes a value: a
key may stand in the wrong variable.
"""

import re
import unicodedata
from itertools import dropwhile
from urllib.parse import urlsplit, urlunsplit

_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "„": "“", "‘": "’", "‚": "‘", "«": "»", "”": "”", "’": "’"}
_ENDPOINT = "/chat/completions"
_LOGIN = re.compile(r"^(\w*://)?.*@", re.DOTALL)


def clean(text: str) -> str:
    """Strips a copied value of blanks, line ends, invisible characters and a pair of quotes."""
    while True:
        bare = "".join(dropwhile(is_invisible, text))
        bare = "".join(dropwhile(is_invisible, reversed(bare)))[::-1]
        if len(bare) >= 2 and _QUOTES.get(bare[0]) == bare[-1]:
            bare = bare[1:-1]
        if bare == text:
            return bare
        text = bare


def is_invisible(char: str) -> bool:
    """Returns True for blanks, controls and format characters, such as the byte order mark."""
    return char.isspace() or unicodedata.category(char) in ("Cc", "Cf", "Zs", "Zl", "Zp")


def api_key(text: str) -> str:
    """Returns the key as it is sent: visible ASCII without quotes. Raises `ValueError`."""
    key = clean(text)
    if not key:
        raise ValueError("it is blank: give the provider's key, or unset the variable")
    if key.lower().startswith("bearer "):
        raise ValueError("give the key alone, without 'Bearer'")
    if not all("!" <= char <= "~" and char not in "\"'`\\" for char in key):
        raise ValueError(
            "it has blanks, line breaks, quotes, backslashes or non-ASCII characters inside, which no "
            "key has: copy the key again"
        )
    return key


def base_url(text: str) -> str:
    """Returns the URL to which `/chat/completions` is added. Raises `ValueError`."""
    url = clean(text)
    if not url:
        raise ValueError("it is blank: give the provider's URL, or unset the variable")
    if not all("!" <= char <= "~" for char in url):
        raise ValueError("it has blanks, line breaks or non-ASCII characters inside: copy the URL again")
    if not re.match(r"https?://", url, re.IGNORECASE):
        raise ValueError("must be an http:// or https:// URL, such as https://api.example.com/v1")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port is none: write https://host:port/v1, port 1 to 65535") from None
    if not host or port == 0 or not re.fullmatch(r"[A-Za-z0-9._~:-]+", host):
        raise ValueError("its host or port is none: write https://host:port/v1, port 1 to 65535")
    if "?" in url or "#" in url:
        raise ValueError("it has a query or a fragment, which would be lost: end it at the path, such as /v1")
    if parts.path.rstrip("/").endswith(_ENDPOINT):
        raise ValueError(f"leave {_ENDPOINT} away: it is added to each request")
    return url


def model_name(text: str) -> str:
    """Returns the model's name as it is sent. Raises `ValueError`."""
    name = clean(text)
    if not name:
        raise ValueError("it is blank: give the model's name, or unset the variable")
    if any(is_invisible(char) or not char.isprintable() for char in name):
        raise ValueError("it has blanks or invisible characters inside: copy the model's name again")
    return name


def without_login(url: str) -> tuple[str, tuple[str, str] | None]:
    """Returns the URL without `user:password@`, and these two."""
    parts = urlsplit(url)
    login = None if parts.username is None else (parts.username, parts.password or "")
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), login


def shown(text: str) -> str:
    """Returns a URL, even a wrong one, with its login masked."""
    return _LOGIN.sub(r"\1***@", text)
