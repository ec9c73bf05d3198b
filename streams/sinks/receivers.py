"""Who is told by webhook: one file of receivers, and their secrets in files of their own (0600).

An address can itself be a secret (chat services put one into its path): it is shown by scheme and host only. A secret
is given out once, when it is made; it is never logged and never shown again.
"""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from streams.contract.records import Alert
from streams.errors import StreamsError
from streams.sinks import private_file
from streams.sinks.address_guard import DEFAULT_PORTS, Allowed

Shape = Literal["standard", "slack", "alertmanager"]
SHAPES: Final[tuple[Shape, ...]] = ("standard", "slack", "alertmanager")
PREFIX: Final = "whsec_"
MOST_SECRETS: Final = 2  # the new one and the one that it replaces
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_RANK: Final = {"info": 0, "warning": 1, "critical": 2}


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """One receiver. `secrets` are file names, the newest first; empty = not signed."""

    name: str
    url: str
    shape: Shape = "standard"
    secrets: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    allow_ports: tuple[int, ...] = ()
    rules: tuple[str, ...] = ()  # empty = all
    least_severity: Literal["info", "warning", "critical"] = "info"
    created_ns: int = 0  # alerts before it are not sent: a new receiver is not told the past

    @property
    def allowed(self) -> Allowed:
        return Allowed(frozenset(self.allow_hosts), frozenset({*DEFAULT_PORTS.values(), *self.allow_ports}))

    @property
    def shown(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}/..."

    def wants(self, alert: Alert) -> bool:
        """Whether an alert is for this receiver."""
        return (
            alert.ts_ns >= self.created_ns
            and (not self.rules or alert.rule in self.rules)
            and _RANK[alert.severity] >= _RANK[self.least_severity]
        )


class Receivers:
    """The file of receivers and the folder of their secrets."""

    def __init__(self, path: Path) -> None:
        self.path, self._folder = path, path.parent / "secrets"

    def all(self) -> list[Receiver]:
        """Every receiver; raises StreamsError for a damaged file."""
        return private_file.read(self.path, list[Receiver], [])

    def get(self, name: str) -> Receiver:
        """One receiver; raises StreamsError that names the others."""
        found = {one.name: one for one in self.all()}
        if name not in found:
            raise StreamsError(f"there is no receiver {name!r}; there are: {', '.join(sorted(found)) or 'none'}")
        return found[name]

    def add(self, receiver: Receiver, *, secret: str | None = None, signed: bool = True) -> str | None:
        """Adds a receiver; returns the secret that was made for it (None when it was given or not wanted)."""
        if not _NAME.fullmatch(receiver.name):
            raise StreamsError(f"{receiver.name!r} is no name; use a-z, 0-9, - and _, at most 40")
        with private_file.locked(self.path):
            others = self.all()
            if any(one.name == receiver.name for one in others):
                raise StreamsError(f"there is a receiver {receiver.name!r} already; choose another --name or remove it")
            made = new_secret() if signed and secret is None else None
            text = secret or made
            if text is not None:
                key_of(text)
                receiver = msgspec.structs.replace(receiver, secrets=(self._keep(receiver.name, text),))
            private_file.write(self.path, [*others, receiver])
        return made

    def rotate(self, name: str) -> str:
        """A new secret beside the old one: both sign until `finish` drops the old one."""
        with private_file.locked(self.path):
            receiver, text = self.get(name), new_secret()
            if len(receiver.secrets) >= MOST_SECRETS:
                raise StreamsError(f"{name} has two live secrets already; end that rotation first: --finish")
            self._replace(receiver, (self._keep(name, text), *receiver.secrets))
        return text

    def finish(self, name: str) -> None:
        """Ends a rotation: only the newest secret signs."""
        with private_file.locked(self.path):
            receiver = self.get(name)
            self._replace(receiver, receiver.secrets[:1])
            for old in receiver.secrets[1:]:
                (self._folder / old).unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """Removes a receiver and its secrets; what still waits for it is kept in the log."""
        with private_file.locked(self.path):
            receiver = self.get(name)
            private_file.write(self.path, [one for one in self.all() if one.name != name])
            for old in receiver.secrets:
                (self._folder / old).unlink(missing_ok=True)

    def keys(self, receiver: Receiver) -> list[bytes]:
        """The signing keys, newest first. Raises StreamsError when one is missing: unsigned is never sent instead."""
        out = []
        for name in receiver.secrets:
            try:
                out.append(key_of((self._folder / name).read_text().strip()))
            except OSError as error:
                raise StreamsError(
                    f"the secret of {receiver.name} cannot be read ({error.strerror}); "
                    f"`eo webhook rotate {receiver.name}` makes a new one"
                ) from error
        return out

    def _keep(self, name: str, text: str) -> str:
        file = f"{name}-{os.urandom(4).hex()}"
        private_file.write_bytes(self._folder / file, text.encode())
        return file

    def _replace(self, receiver: Receiver, secrets: tuple[str, ...]) -> None:
        changed = msgspec.structs.replace(receiver, secrets=secrets)
        private_file.write(self.path, [changed if one.name == receiver.name else one for one in self.all()])


def new_secret() -> str:
    """32 random bytes in the form of Standard Webhooks."""
    return PREFIX + base64.b64encode(os.urandom(32)).decode()


def key_of(secret: str) -> bytes:
    """The key inside a secret. Raises StreamsError, which never repeats the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(PREFIX) or not 24 <= len(key) <= 64:
        raise StreamsError("a secret is whsec_ and 24 to 64 bytes in base64; leave it out and one is made")
    return key
