"""Remembers what an Idempotency-Key was answered, on disk, so that a repeated request is answered and not done again.

A key belongs to one caller and one body: with another body it is refused. What was begun and not finished (a crash in
between) is done again, which is safe because every word that it sends is absolute.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agents.gateway.problems import Problem

KEEP_NS: Final = 24 * 3600 * 10**9
KEEP: Final = 5000


class Remembered(msgspec.Struct, frozen=True):
    """One key's request and what it was answered; `answer` is empty until it is done."""

    caller: str
    key: str
    body_sha256: str
    at_ns: int
    answer: str = ""


class Idempotency:
    """The keys of the last day, in one file."""

    def __init__(self, path: Path, *, wall_ns: Callable[[], int]) -> None:
        self.path, self._wall_ns = path, wall_ns
        self._known: dict[tuple[str, str], Remembered] | None = None
        self._running: set[tuple[str, str]] = set()

    def begin(self, caller: str, key: str, body: bytes) -> str | None:
        """The answer of an earlier request with this key, or None: do it, then call `done` or `failed`.

        Raises Problem 409 for another body or a request that still runs, 503 when it could not be remembered.
        """
        name, known, digest = (caller, key), self._load(), hashlib.sha256(body).hexdigest()
        earlier = known.get(name)
        if earlier is not None and earlier.body_sha256 != digest:
            raise Problem(
                409,
                f"Idempotency-Key {key!r} was used before with another body.",
                fix="send a fresh Idempotency-Key with a changed request",
            )
        if name in self._running:
            raise Problem(409, f"the request with Idempotency-Key {key!r} still runs.", fix="ask again in some seconds")
        if earlier is not None and earlier.answer:
            return earlier.answer
        self._running.add(name)
        known[name] = Remembered(caller, key, digest, self._wall_ns())
        try:
            self._save(known)
        except OSError as error:
            self._running.discard(name)
            del known[name]
            raise Problem(
                503,
                f"{self.path} cannot be written ({error.strerror}), so a repeated request could not be recognised.",
                fix="free space or rights in the gateway's data folder; nothing was done",
            ) from error
        return None

    def done(self, caller: str, key: str, answer: str) -> None:
        known = self._load()
        known[caller, key] = msgspec.structs.replace(known[caller, key], answer=answer)
        self._running.discard((caller, key))
        self._save(known)

    def failed(self, caller: str, key: str) -> None:
        """The request was not done: the key may be used again, with the same body or another."""
        known = self._load()
        known.pop((caller, key), None)
        self._running.discard((caller, key))
        self._save(known)

    def _load(self) -> dict[tuple[str, str], Remembered]:
        if self._known is None:
            try:
                read = msgspec.json.decode(self.path.read_bytes(), type=list[Remembered])
            except FileNotFoundError:
                read = []
            except (OSError, msgspec.MsgspecError) as error:
                raise Problem(
                    503,
                    f"{self.path} cannot be read ({error}), so a repeated request could not be recognised.",
                    fix="move that file away after checking `eo cap show`; nothing was done",
                ) from error
            self._known = {(one.caller, one.key): one for one in read}
        return self._known

    def _save(self, known: dict[tuple[str, str], Remembered]) -> None:
        oldest = self._wall_ns() - KEEP_NS
        for name in [name for name, one in known.items() if one.at_ns < oldest]:
            del known[name]
        while len(known) > KEEP:
            del known[next(iter(known))]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.path.with_suffix(f".{os.getpid()}.tmp")
        with fresh.open("wb") as out:
            out.write(msgspec.json.encode(list(known.values())))
            out.flush()
            os.fsync(out.fileno())
        fresh.replace(self.path)
