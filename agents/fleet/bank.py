"""The twin seen through the node agent's eyes: turns the arrays of all GPUs into each node's columns and engines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from agents.fleet.registers import Registers
from agents.fleet.training import TrainingJobs
from models.twin.cluster import TwinCluster
from models.twin.histograms import SparseHist
from streams.contract.records import EngineReading, GpuColumns, Histogram, HostReading

STACK: Final = "llama-3.1-70b/bf16/twin/h100x4"
WORKLOAD: Final = "llm-conversation"
RECORD, CONTROL = 0, 1
CHUNK_RANGE: Final = (128, 448)  # as in the bench (models.bench.protocol)
MOST_KEPT: Final = 16  # parts: some seconds of a loop that asks twice a second
Latencies = tuple[SparseHist, SparseHist, SparseHist]


class Bank:
    """Gives each node its readings; `advance` moves the twin on and refreshes the registers and the columns."""

    def __init__(
        self, registers: Registers, twin: TwinCluster, *, gpus_per_engine: int, training: TrainingJobs | None = None
    ) -> None:
        self.registers, self.twin, self.training = registers, twin, training
        per_node = registers.gpus_per_node
        if per_node % gpus_per_engine:
            raise ValueError(
                f"{per_node} GPUs per node do not divide into engines of {gpus_per_engine}; choose a multiple"
            )
        self.engines_per_node = per_node // gpus_per_engine
        self._names = (registers.name,) * per_node
        self._ok = ("ok",) * per_node
        self._engine_uuids = tuple(
            registers.uuids[start : start + gpus_per_engine]
            for start in range(0, len(registers.uuids), gpus_per_engine)
        )
        # The counter of a device goes on over a restart of the fleet, as it does over a restart of an agent.
        self._energy_base_mj = registers.energy_mj.copy()
        # What the twin counted and each of two readers, record and control loop, has not been given yet.
        self._kept: tuple[dict[int, list[Latencies]], dict[int, list[Latencies]]] = ({}, {})
        self._replica_of = {self._name(replica): replica for replica in range(len(self._engine_uuids))}
        self._arrived = np.zeros(len(self._engine_uuids), dtype=np.int64)
        self._columns: dict[str, Sequence[float]] = {}
        self._engine_columns: dict[str, Sequence[float]] = {}
        self.refresh()

    def advance(self, dt_s: float) -> None:
        """Moves the twin by dt under the limits and locks that stand in the registers now."""
        registers, twin = self.registers, self.twin
        twin.advance(dt_s, sm_lock_mhz=registers.sm_lock_mhz, limit_w=registers.limit_w)
        if self.training is not None:
            self.training.advance(dt_s)
        self.refresh()

    def refresh(self) -> None:
        """Copies the twin's state to the registers, and to plain lists once for all nodes."""
        registers, twin = self.registers, self.twin
        for column in ("power_w", "sm_mhz", "temp_c", "util_ratio", "throttle"):
            getattr(registers, column)[:] = getattr(twin, column)
        registers.energy_mj[:] = self._energy_base_mj + twin.energy_mj
        if self.training is not None:
            self.training.overlay()
        self._columns = {
            "power_w": np.round(registers.power_w, 2).tolist(),
            "energy_mj": registers.energy_mj.astype(np.int64).tolist(),
            "limit_w": registers.limit_w.tolist(),
            "sm_mhz": registers.sm_mhz.astype(np.int64).tolist(),
            "sm_lock_mhz": registers.sm_lock_mhz.astype(np.int64).tolist(),
            "util_ratio": np.round(registers.util_ratio, 4).tolist(),
            "temp_c": np.round(registers.temp_c, 1).tolist(),
            "throttle": registers.throttle.astype(np.int64).tolist(),
            "limit_default_w": registers.limit_default_w.tolist(),
            "limit_min_w": registers.limit_min_w.tolist(),
            "limit_max_w": registers.limit_max_w.tolist(),
            "sm_max_mhz": registers.sm_max_mhz.astype(np.int64).tolist(),
        }
        counts = (
            "running",
            "waiting",
            "waiting_tokens",
            "kv_tokens",
            "prompt_tokens_total",
            "generation_tokens_total",
            "requests_total",
        )
        self._engine_columns = {name: getattr(twin, name).astype(np.int64).tolist() for name in counts}
        self._engine_columns["kv_use_ratio"] = np.round(twin.kv_use_ratio, 4).tolist()

    def gpu_columns(self, node_index: int) -> GpuColumns:
        """One node's GPUs as the contract has them. Memory is not simulated, so it is null."""
        start = node_index * self.registers.gpus_per_node
        end = start + self.registers.gpus_per_node
        part = {name: tuple(values[start:end]) for name, values in self._columns.items()}
        locks = tuple(lock or None for lock in part.pop("sm_lock_mhz"))
        return GpuColumns(
            uuid=self.registers.uuids[start:end],
            name=self._names,
            state=self._ok,  # type: ignore[arg-type]  # a tuple of one literal
            sm_lock_mhz=locks,  # type: ignore[arg-type]  # integers by construction above
            **part,  # type: ignore[arg-type]
        )

    def engines(self, node_index: int, now_ns: int) -> tuple[EngineReading, ...]:
        """The serving engines of one node; histograms count since the last call for that node."""
        return self._read(node_index, now_ns, RECORD)

    def engines_now(
        self, node_index: int, now_ns: int, only: frozenset[str] | None = None
    ) -> tuple[EngineReading, ...]:
        """The same for the control loop, with histograms that count since its own last call."""
        return self._read(node_index, now_ns, CONTROL, only)

    def joined(self) -> dict[int, frozenset[str]]:
        """Node -> its engines that requests have joined since the last call."""
        arrived = self.twin.arrived_total
        news, self._arrived = np.flatnonzero(arrived > self._arrived), arrived
        found: dict[int, set[str]] = {}
        for replica in news.tolist():
            found.setdefault(replica // self.engines_per_node, set()).add(self._name(replica))
        return {node: frozenset(names) for node, names in found.items()}

    def chunk_range(self, engine: str) -> tuple[int, int] | None:
        """Chunk sizes that an engine takes while it runs; see agents.node.controllers.ChunkPort."""
        return CHUNK_RANGE if engine in self._replica_of else None

    def set_chunk(self, engine: str, tokens: int | None) -> None:
        """From the next iteration on."""
        self.twin.set_chunk(self._replica_of[engine], tokens)

    def _name(self, replica: int) -> str:
        node, slot = divmod(replica, self.engines_per_node)
        return f"{self.registers.nodes[node]}/r{slot}"

    def _read(
        self, node_index: int, now_ns: int, reader: int, only: frozenset[str] | None = None
    ) -> tuple[EngineReading, ...]:
        if self.training is not None and node_index in self.training.nodes:
            return (self.training.engine(node_index, now_ns, reader),)
        found = []
        for replica in self._replicas(node_index):
            if only is not None and self._name(replica) not in only:
                continue
            taken = self.twin.take_histograms(replica)
            for kept in self._kept:
                waiting = kept.setdefault(replica, [])
                waiting.append(taken)
                del waiting[:-MOST_KEPT]  # a reader that never asks, e.g. a node without control
            parts = self._kept[reader].pop(replica)
            found.append(self._engine(replica, now_ns, tuple(_pooled(*column) for column in zip(*parts, strict=True))))
        return tuple(found)

    def _replicas(self, node_index: int) -> range:
        first = node_index * self.engines_per_node
        return range(first, first + self.engines_per_node)

    def _engine(self, replica: int, now_ns: int, histograms: tuple[Histogram, ...]) -> EngineReading:
        ttft, tbt, e2e = histograms
        values = {column: values[replica] for column, values in self._engine_columns.items()}
        return EngineReading(
            engine=self._name(replica),
            kind="twin",
            stack=STACK,
            workload=WORKLOAD,
            gpu_uuid=self._engine_uuids[replica],
            ts_ns=now_ns,
            ttft=ttft,
            tbt=tbt,
            e2e=e2e,
            **values,  # type: ignore[arg-type]  # integers by construction above
        )

    def host(self, node_index: int) -> HostReading | None:
        """Hosts are not simulated here: unknown, not zero."""
        return None


def _histogram(sparse: SparseHist) -> Histogram:
    return Histogram(index=sparse.index, count=sparse.count, sum_ms=round(sparse.sum_ms, 3))


def _pooled(*parts: SparseHist) -> Histogram:
    if len(parts) == 1:
        return _histogram(parts[0])
    counts: dict[int, int] = {}
    for part in parts:
        for index, count in zip(part.index, part.count, strict=True):
            counts[index] = counts.get(index, 0) + count
    places = tuple(sorted(counts))
    total = sum(part.sum_ms for part in parts)
    return Histogram(index=places, count=tuple(counts[i] for i in places), sum_ms=round(total, 3))
