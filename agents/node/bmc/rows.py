"""What one poll of a BMC says: rows of power domains and of sensors, states, reasons of what is missing. Values."""

from __future__ import annotations

from dataclasses import dataclass, field

from streams.contract.records import DomainColumns, SensorColumns

SOURCE = "redfish"


@dataclass(slots=True, kw_only=True)
class DomainRow:
    """One power domain while it is being found out; `total` ranks it as its chassis' whole power, 0 = it is a part."""

    name: str
    kind: str
    chassis: str = ""  # address of the chassis that it belongs to
    power_w: float | None = None
    energy_mj: int | None = None
    limit_w: float | None = None
    limit_min_w: float | None = None
    limit_max_w: float | None = None
    gpu_uuid: str | None = None
    health: str | None = None
    parent: str | None = None
    total: int = 0
    origins: frozenset[str] = frozenset()  # addresses that show the same reading


@dataclass(frozen=True, slots=True)
class SensorRow:
    name: str
    kind: str
    unit: str
    value: float | None


@dataclass(slots=True)
class Snapshot:
    """One poll's result. `state` is the power state per system; `used` are the addresses that gave something."""

    domains: list[DomainRow] = field(default_factory=list)
    sensors: list[SensorRow] = field(default_factory=list)
    state: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def lacks(self, name: str, what: str, why: str) -> None:
        if why:
            self.missing[f"domains[{name}].{what}" if what else f"domains[{name}]"] = why

    def domain_columns(self, source: str = SOURCE) -> DomainColumns | None:
        rows = self.domains
        if not rows:
            return None
        return DomainColumns(
            name=tuple(row.name for row in rows),
            kind=tuple(row.kind for row in rows),
            source=(source,) * len(rows),
            quality=tuple("measured" for _ in rows),
            parent=tuple(row.parent for row in rows),
            power_w=tuple(row.power_w for row in rows),
            energy_mj=tuple(row.energy_mj for row in rows),
            limit_w=tuple(row.limit_w for row in rows),
            limit_min_w=tuple(row.limit_min_w for row in rows),
            limit_max_w=tuple(row.limit_max_w for row in rows),
            gpu_uuid=tuple(row.gpu_uuid for row in rows),
            health=tuple(row.health for row in rows),
        )

    def sensor_columns(self, source: str = SOURCE) -> SensorColumns | None:
        rows = self.sensors
        if not rows:
            return None
        return SensorColumns(
            name=tuple(row.name for row in rows),
            kind=tuple(row.kind for row in rows),
            unit=tuple(row.unit for row in rows),
            source=(source,) * len(rows),
            value=tuple(row.value for row in rows),
        )
