"""Where a webhook may connect to: decided before any connection, on the addresses that will really be used.

A receiver's address comes from a human, its name from somebody's DNS: neither may make this machine talk to itself, to
its neighbours or to a cloud's metadata service. A name is resolved once, every address it has is judged, and the
connection goes to an address that was judged.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
Resolver = Callable[[str, int], Sequence[str]]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAME: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
# A name that ends in a number is an address, or what somebody takes for one: 2130706433, 0x7f.1, 0177.0.0.1, 127.1
_NUMERIC: Final = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")
# Never a receiver, also not for a name that is allowed: metadata services live here, and nobody's webhook does.
_NEVER: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "fe80::/10", "ff00::/8", "::/128", "fd00:ec2::/32",
                 "100.100.100.200/32", "192.0.0.192/32")
)  # fmt: skip
# Beside what the ipaddress module calls not global: ranges that carry an IPv4 address or lead to one.
_CARRIERS: Final = tuple(
    ipaddress.ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)
_PRIVATE: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "192.88.99.0/24", "fec0::/10",
                 "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "2001:2::/48", "2001:10::/28", "2001:20::/28")
)  # fmt: skip


class Refused(ValueError):
    """An address that must not be connected to: one sentence with the value and the next step."""


@dataclass(frozen=True, slots=True)
class Target:
    """A receiver after the check: `address` is what to connect to, `host` what its certificate must name."""

    scheme: str
    host: str
    port: int
    path: str
    address: str

    @property
    def host_header(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return name if self.port == DEFAULT_PORTS[self.scheme] else f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What the operator allows beyond the default: hosts by name, as written in the URL, and ports."""

    hosts: frozenset[str] = frozenset()
    ports: frozenset[int] = frozenset(DEFAULT_PORTS.values())


def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def split(url: str, allowed: Allowed) -> tuple[str, str, int, str]:
    """Scheme, host, port and path of a URL that may be used. Raises Refused; asks no network."""
    if len(url) > 2048 or not url.isascii() or any(ch <= " " or ch in '\\"<>^`{|}\x7f' for ch in url):
        raise Refused("the address holds a space, a backslash or a letter beyond ASCII; write names as xn--...")
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise Refused(f"the address is no URL ({error}); write https://HOST/PATH") from error
    if parts.scheme not in DEFAULT_PORTS:
        raise Refused(f"scheme {parts.scheme!r} is not allowed; use https or http")
    if "@" in parts.netloc:
        raise Refused("user and password in an address are not allowed; the signature proves who sends")
    number = DEFAULT_PORTS[parts.scheme] if port is None else port
    if number not in allowed.ports:
        ports = ", ".join(map(str, sorted(allowed.ports)))
        raise Refused(f"port {number} is not allowed (allowed: {ports}); add it with --allow-port {number}")
    _check_host(host)
    path = parts.path or "/"
    return parts.scheme, host, number, f"{path}?{parts.query}" if parts.query else path


def _check_host(host: str) -> None:
    if not host or "%" in host or len(host) > 253:
        raise Refused(f"host {host!r} is not allowed; write a name or an address without a zone")
    if ":" in host:
        if _literal(host) is None:
            raise Refused(f"host {host!r} is no IPv6 address")
        return
    if _NUMERIC.fullmatch(host) and _literal(host) is None:
        raise Refused(f"host {host!r} is a number in disguise; write an address with four decimal parts")
    if not _NAME.fullmatch(host):
        raise Refused(f"host {host!r} is no name; use letters, digits, - and dots")


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def forbidden(text: str, *, by_name: bool = False) -> str | None:
    """Why an address must not be connected to, None when it may; `by_name` = its host is allowed by name."""
    try:
        address: Address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return f"{text!r} is no address"
    inner = _inner(address)
    if inner is not None:
        good = by_name and forbidden(str(inner), by_name=True) is None
        return None if good else f"{text} carries the IPv4 address {inner}"
    if any(address in network for network in _NEVER if network.version == address.version):
        return f"{text} is link-local, multicast, unspecified or a metadata service"
    if by_name:
        return None
    if not address.is_global or any(address in network for network in _PRIVATE if network.version == address.version):
        return f"{text} is loopback, private or reserved"
    return None


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address inside an IPv6 one."""
    if isinstance(address, ipaddress.IPv4Address) or int(address) <= 1:
        return None
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    for network in _CARRIERS:
        if address in network:
            shift = 80 if network.prefixlen == 16 else 0
            return ipaddress.IPv4Address((int(address) >> shift) & 0xFFFFFFFF)
    return None


def check(url: str, allowed: Allowed, resolve: Resolver = system_resolver) -> Target:
    """Resolves a URL's host once and returns the address to connect to.

    One forbidden address among several is enough to refuse: who controls the name controls which is used.

    Raises:
        Refused: the URL or an address is not allowed.
        OSError: the name cannot be resolved now; worth another try.
    """
    scheme, host, port, path = split(url, allowed)
    by_name = host in allowed.hosts
    addresses = [host] if _literal(host) is not None else list(resolve(host, port))
    if not addresses:
        raise OSError(f"{host} has no address")
    for address in addresses:
        if why := forbidden(address, by_name=by_name):
            never = by_name or forbidden(address, by_name=True) is not None
            allow = f"a receiver inside needs --allow-host {host}"
            step = "nothing opens it: give another receiver" if never else allow
            raise Refused(f"{host}: {why}; {step}")
    return Target(scheme, host, port, path, addresses[0])
