"""Faults that a simulated fleet can be given while it runs: names, what each does, and the file that asks for them.

They act on the twin's physics and on simulated processes, never on a record, and only this room reads the file: a real
node agent has no way to be given one.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from models.twin.faults import Kind

FILE: Final = "faults.json"
MOST: Final = 64  # entries that the file keeps; the oldest that are over go first


@dataclass(frozen=True, slots=True)
class NamedFault:
    """One fault. `twin` acts on GPUs, `silences` on agents, `dirties` on the grid; `alert` is the rule that tells."""

    name: str
    alert: str
    what: str
    twin: tuple[tuple[Kind, float], ...] = ()
    silences: bool = False
    dirties: bool = False
    from_end: int = 0  # which node by default: so many from the end, so that faults meet different ones
    engine_share: float = 0.0  # instead of a node: so large a share of the engines that are no hold-out


FAULTS: Final[dict[str, NamedFault]] = {
    one.name: one
    for one in (
        NamedFault(
            "hungry-load",
            "high_energy",
            "a foreign process keeps every unit of a node's GPUs busy, up to their limits",
            twin=(("burn", 1.0),),
            from_end=1,
        ),
        NamedFault(
            "empty-batch",
            "low_efficiency",
            "a router passes one request of 30 to a node's engines, whose GPUs spin while they wait",
            twin=(("starved", 30.0), ("burn", 0.35)),
            from_end=2,
        ),
        NamedFault(
            "dirty-grid", "carbon_budget", "the simulated grid's power comes with ten times the CO2", dirties=True
        ),
        NamedFault(
            "dead-agents",
            "agent_silent",
            "a node's agent says and does nothing any more; its capper lives",
            silences=True,
            from_end=3,
        ),
        NamedFault(
            "slow-link",
            "performance_degradation",
            "a bad link makes each step of a fifth of the engines (no hold-out) take three times as long",
            twin=(("slow_rank", 3.0),),
            engine_share=0.2,
        ),
    )
}


def known(name: str) -> NamedFault:
    """The fault of a name; raises ValueError with the list."""
    if name not in FAULTS:
        raise ValueError(f"there is no fault {name!r}; there are: {', '.join(FAULTS)}")
    return FAULTS[name]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A fault from a time to a time (nanoseconds; end 0 = until cleared). No nodes = the fault's own choice."""

    name: str
    start_ns: int
    end_ns: int = 0
    nodes: tuple[str, ...] = ()

    def active(self, now_ns: int) -> bool:
        return self.start_ns <= now_ns and (self.end_ns == 0 or now_ns < self.end_ns)

    def over(self, now_ns: int) -> bool:
        return self.end_ns != 0 and self.end_ns <= now_ns


class FaultFile:
    """The file that asks for faults: whoever may write the fleet's data folder may."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> list[Wanted]:
        """What is asked for; raises ValueError for a file that is damaged or names what nobody knows."""
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=list[Wanted])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.path} cannot be used ({error}); remove it to end all faults") from error
        for one in found:
            known(one.name)
        return found

    def add(self, new: Sequence[Wanted]) -> None:
        """Asks for more faults, beside those that are asked for already."""
        self._change(lambda before: [*before, *new])

    def clear(self, names: Sequence[str], now_ns: int) -> list[Wanted]:
        """Ends those of these names (none = all) that are on or still to come; gives them as they were."""
        ended: list[Wanted] = []

        def end(before: list[Wanted]) -> list[Wanted]:
            out = []
            for one in before:
                hit = not one.over(now_ns) and (not names or one.name in names)
                if hit:
                    ended.append(one)
                if not hit or one.active(now_ns):
                    out.append(msgspec.structs.replace(one, end_ns=now_ns) if hit else one)
            return out

        self._change(end)
        return ended

    def _change(self, by: Callable[[list[Wanted]], list[Wanted]]) -> None:
        with self._locked():
            after = by(self.read())
            while len(after) > MOST and (ended := next((one for one in after if one.end_ns), None)) is not None:
                after.remove(ended)
            replace_file(self.path, msgspec.json.format(msgspec.json.encode(after), indent=2) + b"\n")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_name(f".{FILE}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def replace_file(path: Path, data: bytes) -> None:
    """The old content or the new one, never half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fresh.write_bytes(data)
    fresh.replace(path)
