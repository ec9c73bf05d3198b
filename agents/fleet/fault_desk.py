"""Gives a running fleet the faults that its file asks for, and takes them away again.

It knows names and times and turns them into the twin's faults, silent agents and a dirty grid. What the product makes
of them (features, alerts, restores) is not its business.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agents.fleet import grid
from agents.fleet.faults import FAULTS, FaultFile, NamedFault, Wanted
from agents.fleet.fleet import GPUS_PER_ENGINE, Fleet
from models.policy.holdout import MINIMUM_HOLDOUT_RATIO, in_holdout
from models.twin.cluster import TwinCluster
from models.twin.faults import Fault

FOR_EVER: Final = float("inf")
TOLD_NS: Final = 30_000_000_000  # so long a fault of engines waits for the envelopes that say who is held out
log = logging.getLogger("eo.fleet")


class FaultDesk:
    """The faults of one fleet; `look` is called again and again and does something when something changed."""

    def __init__(self, fleet: Fleet, twin: TwinCluster, folder: Path) -> None:
        self._fleet, self._twin, self._folder = fleet, twin, folder
        self._file = FaultFile(folder)
        self._seen_ns, self._wanted = -1, list[Wanted]()
        self._active: dict[Wanted, NamedFault] = {}
        self._gpus: dict[Wanted, tuple[int, ...]] = {}  # chosen once: a fault stays where it began
        self._due_ns: dict[Wanted, int] = {}
        self._grid = ""

    def look(self, now_ns: int) -> None:
        """Begins and ends what is due."""
        self._read()
        active = {one: FAULTS[one.name] for one in self._wanted if one.active(now_ns) and self._ready(one, now_ns)}
        if active.keys() != self._active.keys():
            for one in active.keys() - self._active.keys():
                log.warning("SIMULATED fault %s begins on %s", one.name, self._where(one))
            for one in self._active.keys() - active.keys():
                log.warning("SIMULATED fault %s is over", one.name)
                self._gpus.pop(one, None)
            self._active = active
            self._apply()
        self._write_grid(now_ns)

    def _read(self) -> None:
        try:
            changed_ns = self._file.path.stat().st_mtime_ns
        except OSError:
            changed_ns = 0
        if changed_ns == self._seen_ns:
            return
        self._seen_ns = changed_ns
        try:
            self._wanted = self._file.read()
        except ValueError as error:
            log.error("%s; the faults go on as they were", error)

    def _apply(self) -> None:
        twin = [
            Fault(kind, 0.0, FOR_EVER, self._chosen(one), amount)
            for one, fault in self._active.items()
            for kind, amount in fault.twin
        ]
        self._twin.set_faults([one for one in twin if one.gpus])
        self._fleet.silent = frozenset(
            node for one, fault in self._active.items() if fault.silences for node in self._nodes(one)
        )

    def _nodes(self, one: Wanted) -> Sequence[str]:
        """The nodes of a fault: those asked for as far as they are ours, or the fault's own choice."""
        nodes = self._fleet.registers.nodes
        if one.nodes:
            return [node for node in nodes if node in one.nodes]
        return [nodes[max(0, len(nodes) - FAULTS[one.name].from_end)]]

    def _chosen(self, one: Wanted) -> tuple[int, ...]:
        if one not in self._gpus:
            share = FAULTS[one.name].engine_share
            by_engine = share > 0.0 and not one.nodes
            self._gpus[one] = self._of_engines(share) if by_engine else self._of_nodes(self._nodes(one))
        return self._gpus[one]

    def _ready(self, one: Wanted, now_ns: int) -> bool:
        """A fault that leaves the hold-out alone begins when that is known, or has been waited for long enough."""
        if one in self._gpus or one.nodes or FAULTS[one.name].engine_share <= 0.0:
            return True
        if all(name in self._fleet.holdout for name in self._engines()):
            return True
        return now_ns - self._due_ns.setdefault(one, now_ns) >= TOLD_NS

    def _engines(self) -> list[str]:
        registers = self._fleet.registers
        per_node = registers.gpus_per_node // GPUS_PER_ENGINE
        return [f"{node}/r{slot}" for node in registers.nodes for slot in range(per_node)]

    def _of_nodes(self, nodes: Sequence[str]) -> tuple[int, ...]:
        registers = self._fleet.registers
        wanted = [index for index, node in enumerate(registers.nodes) if node in nodes]
        return tuple(registers.rows[uuid] for index in wanted for uuid in registers.node_uuids(index))

    def _of_engines(self, share: float) -> tuple[int, ...]:
        """GPUs of the first engines that are no hold-out: the rule on latency compares with the hold-out."""
        names = self._engines()
        free = [number for number, name in enumerate(names) if not self._held_out(name)]
        chosen = free[: max(1, round(share * len(names)))]
        return tuple(
            gpu for number in chosen for gpu in range(number * GPUS_PER_ENGINE, (number + 1) * GPUS_PER_ENGINE)
        )

    def _held_out(self, engine: str) -> bool:
        told = self._fleet.holdout.get(engine)
        return in_holdout(self._fleet.registers.cluster, engine, MINIMUM_HOLDOUT_RATIO) if told is None else told

    def _where(self, one: Wanted) -> str:
        fault, registers = FAULTS[one.name], self._fleet.registers
        if fault.dirties:
            return "the grid"
        if fault.silences:
            return ", ".join(self._nodes(one)) or "no node of this fleet"
        nodes = sorted({registers.nodes[gpu // registers.gpus_per_node] for gpu in self._chosen(one)})
        return ", ".join(nodes) or "no node of this fleet"

    def _write_grid(self, now_ns: int) -> None:
        content = grid.text(self._wanted, now_ns)
        if content != self._grid:
            grid.write(self._folder, content)
            self._grid = content
