"""API keys: made here, shown once, kept as hashes with a role and an end, compared in constant time.

A key is "eo_<id>_<secret>" with 256 random bits, so one round of SHA-256 is enough: there is nothing to guess. The file
is read again when it changes, so a revoked key stops counting without a restart. It must never hold a secret.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

from agents.cli.base import EoError

Role = Literal["read", "operate", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
PREFIX: Final = "eo_"
NAME_CHARS: Final = 80
NO_HASH: Final = hashlib.sha256(b"no key").hexdigest()  # compared with when the id is unknown: the same work either way


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the file."""

    id: str
    name: str
    role: Role
    sha256: str
    created_ns: int
    expires_ns: int | None = None
    revoked_ns: int | None = None

    def state(self, now_ns: int) -> Literal["live", "expired", "revoked"]:
        if self.revoked_ns is not None:
            return "revoked"
        return "expired" if self.expires_ns is not None and now_ns >= self.expires_ns else "live"


def allows(role: Role, needed: Role) -> bool:
    """Whether a role may do what another may: read < operate < admin."""
    return ROLES.index(role) >= ROLES.index(needed)


class KeyStore:
    """The keys of one data folder; `path` is api_keys.json, mode 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, StoredKey] = {}

    def find(self, text: str) -> StoredKey | None:
        """The key that a caller presented, whatever its state; None when there is none such."""
        self._refresh()
        key_id, _, secret = text.removeprefix(PREFIX).partition("_")
        known = self._keys.get(key_id) if text.startswith(PREFIX) else None
        right = hmac.compare_digest(_digest(secret), known.sha256 if known is not None else NO_HASH)
        return known if right else None

    def get(self, key_id: str) -> StoredKey | None:
        """The key of an id as it is now."""
        self._refresh()
        return self._keys.get(key_id)

    def all(self) -> list[StoredKey]:
        self._refresh()
        return sorted(self._keys.values(), key=lambda key: (key.created_ns, key.id))

    def add(self, name: str, role: Role, *, now_ns: int, expires_ns: int | None) -> tuple[StoredKey, str]:
        """A new key and its text, which is shown this once; raises EoError for a name that cannot be used."""
        if not name.strip() or len(name) > NAME_CHARS or not name.isprintable():
            raise EoError(
                f"the name {name[:NAME_CHARS]!r} is not 1 to {NAME_CHARS} printable characters; choose another."
            )
        key_id, secret = secrets.token_hex(4), secrets.token_urlsafe(32)
        key = StoredKey(
            id=key_id, name=name, role=role, sha256=_digest(secret), created_ns=now_ns, expires_ns=expires_ns
        )
        self._change(lambda keys: {**keys, key.id: key})
        return key, f"{PREFIX}{key_id}_{secret}"

    def revoke(self, key_id: str, *, now_ns: int) -> StoredKey:
        """Ends a key now; raises EoError when there is none of that id."""

        def ended(keys: dict[str, StoredKey]) -> dict[str, StoredKey]:
            if key_id not in keys:
                raise EoError(f"there is no key {key_id[:NAME_CHARS]!r} in {self.path}; `eo keys list` shows them.")
            known = keys[key_id]
            return {**keys, key_id: msgspec.structs.replace(known, revoked_ns=known.revoked_ns or now_ns)}

        self._change(ended)
        return self._keys[key_id]

    def _change(self, how: Callable[[dict[str, StoredKey]], dict[str, StoredKey]]) -> None:
        """The old file or the new one, never half of it; one writer at a time."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self._refresh()
                self._write(how(self._keys))
            self._refresh()
        except OSError as error:
            raise EoError(
                f"the key file {self.path} cannot be written ({error.strerror}); give this user the right, or set "
                "EO_DATA_DIR to another folder."
            ) from error

    def _write(self, keys: dict[str, StoredKey]) -> None:
        fresh = self.path.with_suffix(f".{os.getpid()}.tmp")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600, exist_ok=False)
        with fresh.open("wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(list(keys.values())), indent=1))
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(self.path)

    def _refresh(self) -> None:
        try:
            about = self.path.stat()
        except FileNotFoundError:
            self._seen, self._keys = None, {}
            return
        seen = (about.st_mtime_ns, about.st_size, about.st_ino)
        if seen == self._seen:
            return
        try:
            read = msgspec.json.decode(self.path.read_bytes(), type=list[StoredKey])
        except (OSError, msgspec.MsgspecError) as error:
            # Fail closed: a damaged file lets nobody in, and it is never overwritten.
            raise EoError(f"the key file {self.path} cannot be used ({error}); put it back from a copy.") from error
        self._seen, self._keys = seen, {key.id: key for key in read}


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
