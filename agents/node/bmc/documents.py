"""The documents of one BMC, by role and address, and the rules for addresses. No I/O.

A BMC's JSON is foreign input: an address may be relative, absolute, padded, or lead elsewhere. Only addresses below
/redfish/ on the same host are followed.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

from agents.node.bmc.values import Json, text

ROOT: Final = "/redfish/v1"


class BadLink(ValueError):
    """An address that is not followed; the text says why."""


def normal(link: object, *, base: str = ROOT, host: str = "", prefix: str = "") -> str:
    """An address as path and query on this host, without fragment and trailing slash. Raises BadLink.

    `prefix` is a gateway's path to this BMC, which some gateways write into the links and others do not.
    """
    if not isinstance(link, str) or not link.strip():
        raise BadLink("a link without an address")
    if len(link) > 1024 or not link.strip().isprintable():
        raise BadLink("a link longer than 1024 characters or with characters that cannot be printed")
    try:
        parts = urlsplit(urljoin(base + "/" if not link.startswith("/") else base, link.strip()))
        elsewhere = parts.netloc and parts.netloc.lower() != host.lower()
    except ValueError as error:
        raise BadLink(f"link {link[:100]!r} is no address ({error})") from error
    if elsewhere or parts.scheme not in {"", "http", "https"}:
        raise BadLink(f"link to another host, {parts.netloc[:100] or parts.scheme!r}, is not followed")
    path = posixpath.normpath(parts.path)
    if prefix and path.startswith(f"{prefix}/redfish"):
        path = path.removeprefix(prefix)
    if not (path == "/redfish" or path.startswith("/redfish/")) or ".." in unquote(path).split("/"):
        raise BadLink(f"link {link[:100]!r} leaves /redfish and is not followed")
    return path + (f"?{parts.query}" if parts.query else "")


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key under which 2 comes before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d{1,18})", name)]


def address(value: object) -> str | None:
    """The @odata.id of a reference, or a bare address."""
    if isinstance(value, dict):
        value = value.get("@odata.id")
    return value if isinstance(value, str) and value else None


@dataclass(slots=True)
class Documents:
    """What was fetched: role -> address -> document, with where each comes from and what could not be had."""

    host: str = ""
    prefix: str = ""
    roles: dict[str, dict[str, Json]] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)  # address -> the address that must be asked again for it
    owner: dict[str, str] = field(default_factory=dict)  # address -> the chassis, system or supply that it belongs to
    missing: dict[str, str] = field(default_factory=dict)

    def of(self, role: str) -> dict[str, Json]:
        return self.roles.get(role, {})

    def put(self, role: str, uri: str, doc: Json, *, origin: str, owner: str) -> None:
        self.roles.setdefault(role, {})[uri] = doc
        self.origin[uri], self.owner[uri] = origin, owner

    def arrange(self) -> None:
        """Puts every role in the order of its addresses, so that rows do not change places with a BMC's haste."""
        for role, docs in self.roles.items():
            self.roles[role] = dict(sorted(docs.items(), key=lambda item: natural(item[0])))

    def has(self, uri: str) -> bool:
        return uri in self.origin

    def link(self, value: object, base: str = ROOT) -> str | None:
        """A reference as an address of this BMC, None when there is none or it leads elsewhere."""
        try:
            return normal(address(value), base=base, host=self.host, prefix=self.prefix)
        except BadLink:
            return None

    def owned(self, role: str, owner: str) -> dict[str, Json]:
        return {uri: doc for uri, doc in self.of(role).items() if self.owner.get(uri) == owner}

    def name(self, uri: str) -> str:
        """A resource's Id, else the last part of its address."""
        for docs in self.roles.values():
            if (doc := docs.get(uri)) is not None and (found := text(doc.get("Id"))):
                return found
        return unquote(uri.rpartition("/")[2])[:80]
