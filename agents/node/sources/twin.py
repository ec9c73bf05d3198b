"""Readings of a simulated node. The bank (the fleet's) does the arithmetic; this file only shapes it as a source.

It must not import numpy: a node agent without a fleet stays light.
"""

from __future__ import annotations

from typing import Final, Protocol

from agents.node.sources.base import Probe, Reading
from streams.contract.records import EngineReading, GpuColumns, HostReading

CAPABILITY: Final = ("gpu.energy", "gpu.power", "gpu.limit", "gpu.clock", "gpu.temperature", "gpu.throttle", "engine")


class TwinBank(Protocol):
    """The simulated devices and engines of many nodes, read by node index."""

    def gpu_columns(self, node_index: int) -> GpuColumns: ...

    def engines(self, node_index: int, now_ns: int) -> tuple[EngineReading, ...]: ...

    def engines_now(
        self, node_index: int, now_ns: int, only: frozenset[str] | None = None
    ) -> tuple[EngineReading, ...]: ...

    def host(self, node_index: int) -> HostReading | None: ...


class TwinSource:
    """One simulated node; its quality is always "simulated"."""

    name = "twin"

    def __init__(self, bank: TwinBank, node_index: int) -> None:
        self._bank, self._node_index = bank, node_index

    def probe(self) -> Probe:
        return Probe(True, None, CAPABILITY)

    def read(self, now_ns: int) -> Reading:
        """The twin's state now; never fails."""
        bank, index = self._bank, self._node_index
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="simulated",
            capability=CAPABILITY,
            gpu=bank.gpu_columns(index),
            host=bank.host(index),
            engines=bank.engines(index, now_ns),
        )

    def engines_now(self, now_ns: int, only: frozenset[str] | None = None) -> tuple[EngineReading, ...]:
        """See base.EngineFeed."""
        return self._bank.engines_now(self._node_index, now_ns, only)

    def close(self) -> None:
        return None
