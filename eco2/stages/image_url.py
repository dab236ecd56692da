"""Which picture URLs are passed on: public web addresses, told from everything else by their text alone.

Nothing is resolved or fetched here; whoever fetches checks again what the name resolves to. It guarantees
that no literal private address passes, in whatever notation, and nothing that two URL parsers may read
differently.
"""

import re
import socket
import unicodedata
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from eco2.pipeline import InvalidInput

MAX_URL = 2000

_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_HOST = re.compile(r"[^\x00-\x2f\x3a-\x40\[-\x5e`{-\x7f][^\x00-\x2c\x2f\x3a-\x40\[-\x5e`{-\x7f]*")
_PRIVATE_NAMES = frozenset({"localhost", "local", "internal", "intranet", "lan", "home", "corp", "arpa"})
_NAT64 = 0x64_FF9B << 96


def check(url: str) -> str:
    """The URL, if it may be a picture on the web. Raises `InvalidInput`."""
    if len(url) > MAX_URL:
        raise InvalidInput(f"image_url is longer than {MAX_URL} characters")
    if _UNSAFE.search(url):
        raise InvalidInput("image_url has a space, a backslash or a control character: encode it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise InvalidInput(f"image_url is no URL ({error})") from error
    bracketed = "[" in parts.netloc
    if parts.scheme not in ("http", "https") or not host or port == 0 or bracketed != (":" in host):
        raise InvalidInput("image_url must be an http(s) URL or a data:image/...;base64 URL")
    if "@" in parts.netloc:
        raise InvalidInput("image_url has a user name or password: send a URL without")
    if not is_public(host):
        raise InvalidInput("image_url is not on the public internet: send the picture itself")
    return url


def is_public(host: str) -> bool:
    """False for a private name, and for an address that is private in any notation."""
    host = unicodedata.normalize("NFKC", host).replace("。", ".").lower().removesuffix(".")
    if ":" in host:
        return _is_public_address(host)
    *parents, last = host.split(".")
    if re.fullmatch(r"\d+|0x[0-9a-f]*", last):  # browsers and libc read such a name as a number
        return _is_public_number(host)
    names = [*parents, last]
    return bool(parents) and last not in _PRIVATE_NAMES and all(_HOST.fullmatch(name) for name in names)


def _is_public_number(host: str) -> bool:
    try:
        return _is_public_address(str(IPv4Address(socket.inet_aton(host))))
    except OSError:
        return False


def _is_public_address(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv6Address):
        carried = _carried(address)
        if address.scope_id or (carried is not None and not _is_global(carried)):
            return False
        return carried is not None or _is_global(address)
    return _is_global(address)


def _carried(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that packets to this one end up at."""
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour
    if int(address) >> 32 == _NAT64 >> 32:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not address.is_multicast and not address.is_reserved
