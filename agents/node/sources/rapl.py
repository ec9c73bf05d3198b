"""CPU, DRAM and platform power from the kernel's own counters: powercap (RAPL) and hwmon. Reads files, sets nothing.

Each domain's counter is kept monotone over its wraps; a domain that vanishes or may not be read is named with its
reason and stops no other. Where nothing measures the CPU, its power is estimated from load and marked so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.node.sources import cpu_estimate, cpu_load, hwmon, powercap
from agents.node.sources.base import Probe, Reading
from agents.node.sources.energy_counter import EnergyCounter
from agents.node.sources.power_domain import Domain, ReadText, number, power_uw, read_text, why_unreadable
from streams.contract.records import DomainColumns, HostReading, Quality

ESTIMATE: Final = "cpu-estimate"
ROOT_NAME: Final = "EO_SYSFS_ROOT"  # a container mounts the host's /sys elsewhere


@dataclass(frozen=True, slots=True)
class _Row:
    domain: Domain
    power_w: float | None
    energy_mj: int | None
    quality: Quality = "measured"


class RaplSource:
    """The host's power domains.

    Args:
        root: where sys/ lies ("/" on a host), or a recorded tree's sys folder; "" = EO_SYSFS_ROOT, else "/".
        proc_root: where proc/ lies; "" = beside sys/.
        estimate: give an estimate from load where nothing measures the CPU.
        monotonic: seconds; power is energy over this clock, so that a wall clock may jump.
        read: reads one small file as text; raises OSError.
    """

    name = "rapl"

    def __init__(
        self,
        root: str | Path = "",
        *,
        proc_root: str | Path = "",
        estimate: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
        read: ReadText = read_text,
    ) -> None:
        self._root = Path(root or os.environ.get(ROOT_NAME) or "/")
        beside = self._root.parent if self._root.name == "sys" else self._root
        self._proc = Path(proc_root) if proc_root else beside
        self._estimate, self._monotonic, self._read = bool(estimate), monotonic, read
        self._counters: dict[str, EnergyCounter] = {}
        self._seen: dict[str, Domain] = {}
        self._load = cpu_load.CpuLoad()

    def probe(self) -> Probe:
        found = self._domains()
        if any(self._readable(domain) for domain in found):
            return Probe(True, None, self._capability(found))
        if found:
            return Probe(self._can_estimate(), self._why(found[0]), ())
        reason = f"no power domain under {powercap.folder_of(self._root)} nor {hwmon.folder_of(self._root)}"
        hint = "; a virtual machine or container hides them: mount the host's /sys and set EO_SYSFS_ROOT to it"
        return Probe(self._can_estimate(), reason + hint, ("host.cpu.power.estimated",) if self._can_estimate() else ())

    def read(self, now_ns: int) -> Reading:
        """All domains now. Power takes two readings; until then it is unknown and says so."""
        missing: dict[str, str] = {}
        found = self._domains()
        for key in self._seen.keys() - {domain.key for domain in found}:
            missing[_part(self._seen[key].name)] = why_unreadable(self._path(self._seen[key]), FileNotFoundError())
            self._counters[key].lost()
        self._seen |= {domain.key: domain for domain in found}
        rows = [row for domain in found if (row := self._row(domain, missing)) is not None]
        cpu_w = self._cpu_power(rows, missing)
        if self._unmeasured(rows) and (guess := self._guess(missing)) is not None:
            rows = [*rows, guess]  # not into the host's reading: that has no quality of its own
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="estimated" if any(row.quality == "estimated" for row in rows) else "measured",
            capability=self._capability(found),
            host=None if cpu_w is None else HostReading(cpu_power_w=round(cpu_w, 3)),
            domains=self._columns(rows) if rows else None,
            missing=tuple(missing.items()),
        )

    def close(self) -> None:
        return None

    # --- domains -----------------------------------------------------------------------------------------------

    def _domains(self) -> list[Domain]:
        rapl = powercap.domains(powercap.folder_of(self._root), self._read)
        other = hwmon.domains(hwmon.folder_of(self._root), self._read)
        if any(domain.kind == "cpu_package" and self._readable(domain) for domain in rapl):
            other = [domain for domain in other if not domain.kind.startswith("cpu_")]  # the same counters once more
        return rapl + other

    @staticmethod
    def _path(domain: Domain) -> Path:
        return domain.energy or domain.power or (domain.product or (Path(domain.key),))[0]

    def _readable(self, domain: Domain) -> bool:
        return number(self._read, domain.energy) is not None or power_uw(self._read, domain) is not None

    def _why(self, domain: Domain) -> str:
        files = (domain.energy, domain.power, *(domain.product or ()))
        bad = (file for file in files if file is not None and number(self._read, file) is None)
        path = next(bad, self._path(domain))
        try:
            return why_unreadable(path, ValueError(self._read(path)))
        except OSError as error:
            return why_unreadable(path, error)

    def _row(self, domain: Domain, missing: dict[str, str]) -> _Row | None:
        """One domain's reading, None when it gives neither energy nor power."""
        counter = self._counters.setdefault(domain.key, EnergyCounter())
        raw, direct = number(self._read, domain.energy), power_uw(self._read, domain)
        if raw is None:
            counter.lost()
            if direct is None:
                missing[_part(domain.name)] = self._why(domain)
                return None
            return _Row(domain, direct / 1e6, None)
        step = counter.step(raw, self._monotonic(), domain.range_uj)
        power = step.power_w if direct is None else direct / 1e6
        if power is None:
            missing[f"{_part(domain.name)}.power_w"] = step.reason
        return _Row(domain, power, step.energy_uj // 1000)

    def _columns(self, rows: Sequence[_Row]) -> DomainColumns:
        whole = _platform(rows)
        watts = [
            [self._watts(getattr(row.domain, name)) for row in rows] for name in ("limit", "limit_min", "limit_max")
        ]
        return DomainColumns(
            name=tuple(row.domain.name for row in rows),
            kind=tuple(row.domain.kind for row in rows),
            source=tuple(row.domain.source for row in rows),
            quality=tuple(row.quality for row in rows),
            parent=tuple(_parent(row.domain, whole) for row in rows),
            power_w=tuple(None if row.power_w is None else round(row.power_w, 3) for row in rows),
            energy_mj=tuple(row.energy_mj for row in rows),
            limit_w=tuple(watts[0]),
            limit_min_w=tuple(watts[1]),
            limit_max_w=tuple(watts[2]),
        )

    def _watts(self, path: Path | None) -> float | None:
        """A limit; zero means that none is set."""
        value = number(self._read, path)
        return value / 1e6 if value else None

    # --- the CPU as a whole ------------------------------------------------------------------------------------

    @staticmethod
    def _cpu_power(rows: Sequence[_Row], missing: dict[str, str]) -> float | None:
        """Packages summed; a sum with an unknown part is unknown."""
        packages = [row for row in rows if row.domain.kind == "cpu_package"]
        unknown = [row.domain.name for row in packages if row.power_w is None]
        if unknown:
            missing["host.cpu_power_w"] = f"the power of {', '.join(unknown)} is unknown, so the sum is"
            return None
        return sum(row.power_w or 0.0 for row in packages) if packages else None

    @staticmethod
    def _unmeasured(rows: Sequence[_Row]) -> bool:
        return not any(row.domain.kind in {"cpu_package", "cpu_core", "psys"} for row in rows)

    def _stat(self) -> list[str]:
        try:
            with (self._proc / "proc/stat").open("rb") as file:
                return file.read(1_000_000).decode(errors="replace").splitlines()
        except OSError:
            return []

    def _can_estimate(self) -> bool:
        return self._estimate and cpu_load.threads(self._stat()) > 0

    def _guess(self, missing: dict[str, str]) -> _Row | None:
        if not self._estimate or not (lines := self._stat()):
            return None
        threads = cpu_load.threads(lines)
        power = cpu_estimate.power_w(self._load.ratio(lines), threads)
        if not threads:
            return None
        missing[f"{_part(ESTIMATE)}.quality"] = cpu_estimate.told(threads)
        if power is None:
            missing[f"{_part(ESTIMATE)}.power_w"] = "load takes two readings of /proc/stat; this was the first"
        return _Row(Domain(key=ESTIMATE, name=ESTIMATE, kind="cpu_package", source="load"), power, None, "estimated")

    def _capability(self, found: Sequence[Domain]) -> tuple[str, ...]:
        kinds = dict.fromkeys(f"domain.{domain.kind}" for domain in found)
        estimated = not any(domain.kind in {"cpu_package", "cpu_core", "psys"} for domain in found)
        return (*kinds, *(("host.cpu.power.estimated",) if estimated and self._can_estimate() else ()))


def _platform(rows: Sequence[_Row]) -> str | None:
    """The platform domain when it may hold the rest: some boards show one that counts nothing or too little."""
    psys = [row for row in rows if row.domain.kind == "psys"]
    inner = sum(row.power_w or 0.0 for row in rows if row.domain.kind in {"cpu_package", "dram"} and row.power_w)
    if len(psys) != 1 or not psys[0].energy_mj:
        return None
    return psys[0].domain.name if psys[0].power_w is None or psys[0].power_w >= inner * 0.9 else None


def _parent(domain: Domain, whole: str | None) -> str | None:
    if domain.parent is None and domain.kind in {"cpu_package", "dram"}:
        return whole
    return domain.parent


def _part(name: str) -> str:
    return f"domains[{name}]"
