"""The addresses of the broker's nodes: `ECO2_AMQP_URL` taken apart and checked before anything connects.

The grammar is RabbitMQ's AMQP URI, with several nodes where one may stand
(`amqp://user:password@one,two/vhost`), or whole URLs, separated by commas. No message of an error quotes the
text: in a wrong URL the password may stand anywhere.
"""

import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode

from eco2.remote import clean

PORTS: Mapping[str, int] = {"amqp": 5672, "amqps": 5671}
GUEST = "guest"
"""User and password where the URL has none, as with every AMQP client."""

_SHAPE = "must look like amqp://user:password@host:5672/vhost (or amqps://)"
_UNESCAPED = (
    "has a character in the user, password or vhost that means something in a URL: there write %23 for #, "
    "%2F for /, %3F for ?, %40 for @, %3A for : and %25 for %"
)
_FILES = ("cafile", "capath", "certfile", "keyfile")


@dataclass(frozen=True, slots=True)
class Address:
    """One node of the broker, and how to log in there. `options`: what the AMQP library takes in a query."""

    scheme: str
    host: str
    port: int
    vhost: str = "/"
    user: str = GUEST
    password: str = field(default=GUEST, repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def url(self) -> str:
        """The address as a URL for the AMQP library, with everything escaped. It holds the password."""
        user, password, vhost = (quote(part, safe="") for part in (self.user, self.password, self.vhost))
        query = f"?{urlencode(self.options)}" if self.options else ""
        return f"{self.scheme}://{user}:{password}@{self}/{vhost}{query}"

    def __str__(self) -> str:
        """The host and port, for logs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if nothing that is sent there leaves this machine."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def parse(text: str) -> tuple[Address, ...]:
    """Returns the nodes of `text`, in its order. Raises ValueError with advice that quotes nothing of it."""
    urls = re.split(r",\s*(?=amqps?://)", clean(text), flags=re.IGNORECASE)
    addresses = tuple(address for url in urls for address in _nodes(url))
    if len({address.vhost for address in addresses}) > 1:
        raise ValueError(
            "names different vhosts: all URLs must lead to the nodes of one cluster, and to one vhost"
        )
    return addresses


def check_files(addresses: tuple[Address, ...]) -> None:
    """Raises ValueError for a certificate or key that TLS cannot use."""
    for options in {address.options for address in addresses}:
        given = dict(options)
        for name in _FILES:
            if name in given and not Path(given[name]).exists():
                raise ValueError(f"names a {name} that does not exist, or that this process cannot see")
        try:
            context = ssl.create_default_context(cafile=given.get("cafile"), capath=given.get("capath"))
            if "certfile" in given:
                context.load_cert_chain(given["certfile"], given.get("keyfile"))
        except OSError as error:  # ssl.SSLError is one
            raise ValueError(f"names certificates that cannot be used: {error.strerror or error}") from None


def _nodes(url: str) -> list[Address]:
    """The nodes of one URL: a list of hosts may stand in it."""
    found = re.fullmatch(r"(amqps?)://([^/?#]*)([^?]*)(?:\?(.*))?", url, re.IGNORECASE | re.DOTALL)
    if found is None:
        raise ValueError(_SHAPE)
    scheme, authority, path, query = found[1].lower(), found[2], found[3], found[4] or ""
    if re.search(r"[\s\0-\x1f\x7f]", url):
        raise ValueError("has a blank or a line break inside: write %20 for a blank of the password")
    login, at, hosts = authority.rpartition("@")
    user, _, password = login.partition(":")
    if "@" in login + path + query or ":" in password or "#" in path + query:
        raise ValueError(_UNESCAPED)
    if at and not (user and password):
        raise ValueError(
            "has no user, or no password, before the @: write amqp://user:password@host:5672/vhost"
        )
    if not re.fullmatch(r"/?|//|/[^/].*", path):
        raise ValueError(_UNESCAPED)
    node = Address(
        scheme,
        "",
        0,
        _unescaped(path[1:]) or "/",
        _unescaped(user) or GUEST,
        _unescaped(password) or GUEST,
        _options(scheme, query),
    )
    return [_node(node, host) for host in hosts.split(",")]


def _node(like: Address, text: str) -> Address:
    """The node that `text`, a host with perhaps a port, names; the rest as in `like`."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([\w.-]*))(?::(.*))?", text.strip())
    if found is None:
        raise ValueError(f"has a host that is no host name; an IPv6 address needs [ ]. It {_SHAPE}")
    host, port = found[1] or found[2], found[3]
    if not host:
        raise ValueError("has no host (or a comma too many): write amqp://user:password@host:5672/vhost")
    if port is not None and not (re.fullmatch(r"[0-9]{1,5}", port) and 1 <= int(port) <= 65_535):
        raise ValueError("has a wrong port: after the host's colon must stand a number from 1 to 65535")
    if not _is_host(host):
        raise ValueError("has a host that is neither a host name nor an IP address")
    node = replace(like, host=host, port=int(port or PORTS[like.scheme]))
    if dict(node.options).get("no_verify_ssl") == "1" and not node.is_loopback:
        raise ValueError(
            "turns off the check of the broker's certificate (no_verify_ssl) for a host that is not this "
            "machine: name its authority instead (?cafile=/path/ca.pem)"
        )
    return node


def _options(scheme: str, query: str) -> tuple[tuple[str, str], ...]:
    """The options of a query, each known, and only where there is TLS."""
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    for name in options:
        if name == "heartbeat":
            raise ValueError("cannot set the heartbeat: set ECO2_HEARTBEAT, and leave it out of the URL")
        if name not in (*_FILES, "no_verify_ssl", "auth"):
            shown = f" {name}" if re.fullmatch(r"[a-z_]{1,30}", name) else ""
            raise ValueError(
                f"has an option{shown} after the ? that is not known: there are {', '.join(_FILES)}, "
                "no_verify_ssl and auth"
            )
    if len(pairs) > len(options) or "" in options.values() or (query and not pairs):
        raise ValueError(
            "has an option after the ? that is empty or there twice: write name=value, joined by &"
        )
    _check_values(scheme, options)
    return tuple(sorted(options.items()))


def _check_values(scheme: str, options: Mapping[str, str]) -> None:
    if options and scheme == "amqp" and set(options) != {"auth"}:
        raise ValueError("has options of TLS after the ?, and amqp:// does without TLS: write amqps://")
    if options.get("no_verify_ssl", "0") not in ("0", "1"):
        raise ValueError("has a wrong no_verify_ssl: it can be 0 or 1")
    if options.get("auth", "plain").lower() not in ("plain", "external"):
        raise ValueError("has a wrong auth: it can be plain or external (a certificate of the client)")
    if "keyfile" in options and "certfile" not in options:
        raise ValueError("names a keyfile without its certfile: name both")


def _is_host(host: str) -> bool:
    try:
        if ":" in host or re.fullmatch(r"[0-9.]+", host):
            ipaddress.ip_address(host)
        else:
            host.encode("idna")
    except ValueError:  # UnicodeError is one
        return False
    return True


def _unescaped(text: str) -> str:
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ValueError(_UNESCAPED)
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:  # its text quotes what it cannot read
        raise ValueError(_UNESCAPED) from None
