"""Silences: what nobody is told for a while. They mute the telling, never the alert: the topic always has it.

Every silence ends by itself; an alert that still fires then is told.
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

import msgspec

from streams.contract.records import Alert
from streams.errors import StreamsError
from streams.sinks import private_file

LONGEST_S: Final = 30 * 86400


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Matches by pattern (* and ?); an empty pattern matches everything, but not all may be empty."""

    id: str
    until_ns: int
    created_ns: int
    by: str
    reason: str = ""
    rule: str = ""
    node: str = ""
    gpu: str = ""
    group: str = ""

    def matches(self, alert: Alert) -> bool:
        """Whether it mutes this alert, by what it is about; time is the caller's."""
        pairs = (
            (self.rule, alert.rule),
            (self.node, alert.node or ""),
            (self.gpu, alert.gpu_uuid or ""),
            (self.group, alert.group),
        )
        return all(not pattern or fnmatchcase(value, pattern) for pattern, value in pairs)

    def check(self) -> None:
        """Raises StreamsError for one that would mute everything, or too long."""
        if not (self.rule or self.node or self.gpu or self.group):
            raise StreamsError("a silence needs --rule, --node, --gpu or --group; one that mutes everything is refused")
        length_s = (self.until_ns - self.created_ns) / 1e9
        if not 0 < length_s <= LONGEST_S:
            raise StreamsError(f"a silence of {length_s:g} s is not allowed; it must end within 30 days")

    def live(self, now_ns: int) -> bool:
        return self.created_ns <= now_ns < self.until_ns


class Silences:
    """The file of silences."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def all(self) -> list[Silence]:
        """Every silence kept, ended ones included for a day; raises StreamsError for a damaged file."""
        return private_file.read(self.path, list[Silence], [])

    def add(self, silence: Silence) -> Silence:
        """Adds one and forgets those that ended more than a day ago."""
        silence.check()
        with private_file.locked(self.path):
            named = msgspec.structs.replace(silence, id=silence.id or os.urandom(4).hex())
            kept = [one for one in self.all() if one.until_ns > silence.created_ns - 86400 * 10**9]
            private_file.write(self.path, [*kept, named])
        return named

    def end(self, name: str, now_ns: int) -> Silence:
        """Ends one now; raises StreamsError when there is none of that id."""
        with private_file.locked(self.path):
            known = self.all()
            found = next((one for one in known if one.id == name), None)
            if found is None:
                raise StreamsError(f"there is no silence {name!r}; `eo alerts silences` lists them")
            ended = msgspec.structs.replace(found, until_ns=min(found.until_ns, now_ns))
            private_file.write(self.path, [ended if one.id == name else one for one in known])
        return ended
