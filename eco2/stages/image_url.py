"""The check of picture URLs: only public web addresses are passed on, judged by their text alone.

Nothing is resolved or fetched here; the fetcher checks the address that a name resolves to. Guarantees: no
literal private address passes, in whatever notation, nor inside a name that public resolvers read as one, nor
anything that two URL parsers may read differently: a host is plain ASCII, on the ports of the web.
"""

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from eco2.pipeline import InvalidInput

MAX_URL = 2000
PORTS = (None, 80, 443)

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_TOP = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
_PRIVATE_TOP = re.compile(
    r"local|localhost|localdomain|internal|intranet|private|corp|home|lan|svc|cluster|consul|arpa|onion|test|"
    r"invalid|alt|default|scan|eco2|rabbitmq|monitoring"
)
"""Last labels of names that no public resolver has: those of networks, and usual namespaces of Kubernetes."""
_PRIVATE_LABELS = frozenset({"svc", "localhost", "internal"})
_ADDRESS_NAME = re.compile(
    r"(?:.*\.)?(?:(?:nip|sslip|xip|backname)\.io|traefik\.me|localtest\.me|lvh\.me|vcap\.me|lacolhost\.com|"
    r"local\.gd|1u\.ms|rbndr\.us|ip\.addr\.tools)"
)
"""Public domains whose names resolve to whatever address they contain, or to this machine."""
_CARRIED = re.compile(r"(?<![0-9])(?=(\d{1,3})[.-](\d{1,3})[.-](\d{1,3})[.-](\d{1,3})(?![0-9]))")
"""A look-ahead, so that addresses may overlap: `1.10.0.0.1` has two."""
_NAT64 = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))
_DENIED = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("168.63.129.16/32"),  # Azure's host
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),  # 6to4's relays
    IPv4Network("198.18.0.0/15"),
    IPv6Network("fec0::/10"),
    IPv6Network("2001::/23"),  # Teredo and others: packets may end at an address inside
    IPv6Network("100::/64"),
    IPv6Network("5f00::/16"),
    IPv6Network("3fff::/20"),
)
"""Not on the public internet, though some versions of `ipaddress` call them global."""


def check(url: str) -> str:
    """Returns the URL if it may be a picture on the web. Raises `InvalidInput`."""
    if len(url) > MAX_URL:
        raise InvalidInput(f"image_url is longer than {MAX_URL} characters: upload the picture")
    if _UNSAFE.search(url):
        raise InvalidInput("image_url has a space, a backslash or a control character: encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput("image_url is no URL: send https://host/path, or upload the picture") from error
    bracketed = "[" in parts.netloc
    if parts.scheme not in ("http", "https") or not host or bracketed != (":" in host):
        raise InvalidInput("image_url must be an http(s) URL or a data:image/...;base64 URL")
    if "@" in parts.netloc:
        raise InvalidInput("image_url has a user name or password: send a URL without")
    if not parts.netloc.isascii():
        raise InvalidInput("image_url has a host that is not ASCII: send it as xn--…")
    if port not in PORTS:
        raise InvalidInput("image_url has a port other than 80 and 443: upload the picture")
    if not is_public(host):
        raise InvalidInput("image_url is not on the public internet: upload the picture")
    return url


def is_public(host: str) -> bool:
    """Returns False for a private name, and for an address that is private in any notation."""
    host = host.lower().removesuffix(".")
    if ":" in host:
        return is_public_address(host)
    labels = host.split(".")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1]):  # browsers and libc read such a name as a number
        try:
            return is_public_address(str(IPv4Address(socket.inet_aton(host))))
        except OSError:
            return False
    # Services like nip.io resolve 10.0.0.1.example or 10-0-0-1.example to 10.0.0.1, under whatever domain.
    quads = (".".join(str(int(part)) for part in found.groups()) for found in _CARRIED.finditer(host))
    return (
        len(labels) > 1
        and len(host) <= 253
        and all(_LABEL.fullmatch(label) for label in labels)
        and _TOP.fullmatch(labels[-1]) is not None
        and not _PRIVATE_TOP.fullmatch(labels[-1])
        and not _PRIVATE_LABELS & set(labels)
        and not _ADDRESS_NAME.fullmatch(host)
        and all(map(is_public_address, quads))
    )


def is_public_address(text: str) -> bool:
    """Returns whether packets to an IPv4 or IPv6 address stay on the public internet."""
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        carried = carried_address(address)
        if address.scope_id or (carried is not None and not is_global(carried)):
            return False
        return carried is not None or is_global(address)
    return is_global(address)


def carried_address(address: IPv6Address) -> IPv4Address | None:
    """Returns the IPv4 address to which packets to this one are translated; None if there is none."""
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if any(address in network for network in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def is_global(address: IPv4Address | IPv6Address) -> bool:
    """Returns whether the address is on the public internet, by Python's tables and `_DENIED`."""
    denied = any(address.version == network.version and address in network for network in _DENIED)
    return address.is_global and not denied and not address.is_multicast and not address.is_reserved
