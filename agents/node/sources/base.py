"""The contract of a source: probe what is here, read it once, close it. A source holds no thread and keeps no history.

A reading carries its quality and capability with it. What a source cannot know is None, never 0. Absent hardware is a
normal answer of `probe` and a reading without that part, not an error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from streams.contract.records import DomainColumns, EngineReading, GpuColumns, HostReading, Quality, SensorColumns


@dataclass(frozen=True, slots=True)
class Probe:
    """What a source found: present or not, why not (one sentence), and what it can do here."""

    present: bool
    reason: str | None = None
    capability: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading of one source at one instant (UTC nanoseconds); parts that it does not cover are None.

    `missing` says why something that this source usually gives is not there: (field or part, one sentence), e.g.
    ("gpus.energy_mj", "the exporter does not publish DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION"). Parts are named as in the
    output of `eo read`: "gpus.power_w", "gpus[GPU-...].power_w", "domains[dram-0].power_w", "host.cpu_power_w".
    """

    source: str
    ts_ns: int
    quality: Quality
    capability: tuple[str, ...] = ()
    gpu: GpuColumns | None = None
    host: HostReading | None = None
    engines: tuple[EngineReading, ...] = ()
    domains: DomainColumns | None = None
    sensors: SensorColumns | None = None
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def says(self) -> bool:
        """Whether it holds anything: absent hardware reads empty, and must not lend its quality to the rest."""
        parts = (self.gpu, self.host, self.domains, self.sensors)
        return bool(self.engines) or any(part is not None for part in parts)


class Source(Protocol):
    """Where readings come from: hardware, the kernel, a recording or the twin."""

    name: str

    def probe(self) -> Probe:
        """Looks, without a reading and without raising for absent hardware."""
        ...

    def read(self, now_ns: int) -> Reading:
        """One reading stamped `now_ns` (UTC nanoseconds). Raises SourceError when this reading failed."""
        ...

    def close(self) -> None:
        """Lets go of handles and files; may be called twice."""
        ...


@runtime_checkable
class EngineFeed(Protocol):
    """A source whose engines can be asked between two records, for the control loop."""

    def engines_now(self, now_ns: int, only: frozenset[str] | None = None) -> tuple[EngineReading, ...]:
        """What the engines said last; histograms count since this was asked before, not since the last record.

        `only`: these engines and whoever answers with them; nothing is taken from the others. Never raises.
        """
        ...
