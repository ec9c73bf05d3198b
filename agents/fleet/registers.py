"""The registers of the simulated devices: a memory-mapped file that outlives the fleet process, as hardware would.

A fleet killed in the middle leaves its limits and clock locks here, so restoring them can be shown and tested.
"""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

F8 = NDArray[np.float64]
COLUMNS: Final = (
    "limit_w",
    "sm_lock_mhz",
    "limit_default_w",
    "limit_min_w",
    "limit_max_w",
    "sm_min_mhz",
    "sm_max_mhz",
    "power_w",
    "energy_mj",
    "sm_mhz",
    "temp_c",
    "util_ratio",
    "throttle",
)
_NAMESPACE: Final = uuid.UUID("6f3f2f0e-5d0a-4f0e-9a55-3b0f6f1f5c11")


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """What every simulated GPU of a fleet is: an H100 SXM by its data sheet's limits and clocks."""

    name: str = "NVIDIA H100 80GB HBM3 (simulated)"
    limit_default_w: float = 700.0
    limit_min_w: float = 200.0
    limit_max_w: float = 700.0
    sm_min_mhz: float = 210.0
    sm_max_mhz: float = 1980.0


@dataclass(frozen=True, slots=True)
class Registers:
    """One row per GPU and one array per register; writing an array writes the file."""

    cluster: str
    nodes: tuple[str, ...]
    gpus_per_node: int
    name: str
    uuids: tuple[str, ...]
    rows: dict[str, int]
    limit_w: F8
    sm_lock_mhz: F8  # upper clock lock, 0 = none
    limit_default_w: F8
    limit_min_w: F8
    limit_max_w: F8
    sm_min_mhz: F8
    sm_max_mhz: F8
    power_w: F8
    energy_mj: F8
    sm_mhz: F8
    temp_c: F8
    util_ratio: F8
    throttle: F8

    def node_uuids(self, node_index: int) -> tuple[str, ...]:
        """UUIDs of one node's GPUs, in slot order."""
        start = node_index * self.gpus_per_node
        return self.uuids[start : start + self.gpus_per_node]

    def node_name(self, uuid: str) -> str:
        """The node that holds a GPU; raises KeyError for a UUID that is not in the fleet."""
        return self.nodes[self.rows[uuid] // self.gpus_per_node]

    def changed(self) -> tuple[str, ...]:
        """UUIDs whose limit is not the default or whose clock is locked: what a restore must leave empty."""
        odd = (self.limit_w != self.limit_default_w) | (self.sm_lock_mhz != 0)
        return tuple(self.uuids[row] for row in np.flatnonzero(odd))


def create(folder: Path, *, cluster: str, nodes: int, gpus_per_node: int, spec: DeviceSpec | None = None) -> Registers:
    """Opens the registers of a fleet of this shape, or makes them at their defaults when there are none."""
    spec = spec or DeviceSpec()
    head = {"cluster": cluster, "nodes": nodes, "gpus_per_node": gpus_per_node, "name": spec.name}
    head_file, data_file = _files(folder)
    if head_file.exists() and json.loads(head_file.read_text()) == head and data_file.exists():
        return open_registers(folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = np.zeros((len(COLUMNS), nodes * gpus_per_node))
    for column in ("limit_default_w", "limit_min_w", "limit_max_w", "sm_min_mhz", "sm_max_mhz"):
        table[COLUMNS.index(column)] = getattr(spec, column)
    table[COLUMNS.index("limit_w")] = spec.limit_default_w
    data_file.write_bytes(table.tobytes())
    head_file.write_text(json.dumps(head))
    return open_registers(folder)


def open_registers(folder: Path) -> Registers:
    """Maps an existing register file; raises FileNotFoundError or ValueError with the path and the next step."""
    head_file, data_file = _files(folder)
    if not head_file.exists():
        raise FileNotFoundError(
            f"{head_file} does not exist: no fleet ran here; start one with `eo fleet` or `eo demo`"
        )
    head = json.loads(head_file.read_text())
    count = head["nodes"] * head["gpus_per_node"]
    expected = len(COLUMNS) * count * 8
    if (size := data_file.stat().st_size) != expected:
        raise ValueError(f"{data_file} holds {size} bytes where {expected} are expected; remove {folder} to begin anew")
    table = np.memmap(data_file, dtype=np.float64, mode="r+", shape=(len(COLUMNS), count))
    names = node_names(head["nodes"])
    uuids = tuple(gpu_uuid(head["cluster"], node, slot) for node in names for slot in range(head["gpus_per_node"]))
    columns = {column: table[i] for i, column in enumerate(COLUMNS)}
    return Registers(
        cluster=head["cluster"],
        nodes=names,
        gpus_per_node=head["gpus_per_node"],
        name=head["name"],
        uuids=uuids,
        rows={gpu: row for row, gpu in enumerate(uuids)},
        **columns,
    )


def node_names(nodes: int) -> tuple[str, ...]:
    """sim-001, sim-002, ...: names that say what they are."""
    width = max(3, len(str(nodes)))
    return tuple(f"sim-{i:0{width}d}" for i in range(1, nodes + 1))


def gpu_uuid(cluster: str, node: str, slot: int) -> str:
    """The UUID of a simulated GPU: the same one at every start, so that a restart finds its devices."""
    return f"GPU-{uuid.uuid5(_NAMESPACE, f'{cluster}/{node}/{slot}')}"


def _files(folder: Path) -> tuple[Path, Path]:
    return folder / "registers.json", folder / "registers.bin"
