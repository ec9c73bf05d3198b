"""Confirmation and identity of verdicts: k of n, silence after one, and an id that the same evidence always gives."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b


def verdict_id(*evidence: str | int) -> str:
    """The same evidence, the same id: a replay repeats a verdict instead of adding one."""
    return blake2b("\0".join(map(str, evidence)).encode(), digest_size=10).hexdigest()


@dataclass(slots=True)
class KofN:
    """Counts exceedances per key; `hit` says whether the last one confirms."""

    k: int
    n: int
    _recent: dict[str, int] = field(default_factory=dict)

    def hit(self, key: str, over: bool) -> bool:
        """Takes one evaluation in."""
        bits = (self._recent.get(key, 0) << 1 | over) & ((1 << self.n) - 1)
        if bits:
            self._recent[key] = bits
        else:
            self._recent.pop(key, None)
        return over and bits.bit_count() >= self.k

    def suspects(self) -> list[str]:
        """Keys with an exceedance among their last n: worth another look soon."""
        return list(self._recent)


@dataclass(slots=True)
class Silence:
    """Keeps quiet about a key for a while after its verdict: one fault, one verdict per `for_ns`."""

    for_ns: int
    _until: dict[str, int] = field(default_factory=dict)

    def speak(self, key: str, now_ns: int) -> bool:
        """Whether a verdict may be given now; if so, the silence begins."""
        if now_ns < self._until.get(key, 0):
            return False
        self._until[key] = now_ns + self.for_ns
        return True

    def prune(self, now_ns: int) -> None:
        """Forgets silences that are over."""
        for key in [k for k, until in self._until.items() if until <= now_ns]:
            del self._until[key]
