"""Finds RAPL's domains under /sys/class/powercap: packages, cores, uncore, DRAM, platform, with names and nesting.

The same counter may be shown twice (through MSRs and through MMIO): it becomes one domain. DRAM lies under a package in
the tree but is not part of what a package counter holds, so it gets no package as parent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agents.node.sources.power_domain import Domain, ReadText, number, word

MAX_ZONES: Final = 512
_ZONE: Final = re.compile(r"^(?P<control>[^:]+)(?P<path>(?::[0-9a-zA-Z]+)+)$")
_KINDS: Final = (("package", "cpu_package"), ("dram", "dram"), ("psys", "psys"), ("uncore", "cpu_uncore"))


def folder_of(root: Path) -> Path:
    """Where the powercap class lies under a root that is a host's "/", its sys/, or the class folder itself."""
    for candidate in (root / "sys/class/powercap", root / "class/powercap", root / "powercap"):
        if candidate.is_dir():
            return candidate
    return root if any(_zones(root)) else root / "sys/class/powercap"


def domains(folder: Path, read: ReadText) -> list[Domain]:
    """Every domain with an energy counter, outermost first, each counter once."""
    found = [d for zone in sorted(_zones(folder), key=_order)[:MAX_ZONES] if (d := _domain(zone, read)) is not None]
    named = _with_parents(found)
    return _unique(_without_copies(named, read))


def _zones(folder: Path) -> Iterable[Path]:
    try:
        return [path for path in folder.iterdir() if _ZONE.match(path.name) and path.is_dir()]
    except OSError:
        return []


def _order(zone: Path) -> tuple[int, int, str]:
    return zone.name.count(":"), len(zone.name), zone.name


def _domain(zone: Path, read: ReadText) -> Domain | None:
    name, energy = word(read, zone / "name"), zone / "energy_uj"
    if not energy.exists():
        return None  # a control type without a counter, e.g. idle injection
    constraint = _constraint(zone, read)
    return Domain(
        key=zone.name,
        name=name or zone.name,
        kind=_kind(name),
        source="rapl",
        energy=energy,
        range_uj=number(read, zone / "max_energy_range_uj") or None,
        limit=zone / f"{constraint}_power_limit_uw",
        limit_min=zone / f"{constraint}_min_power_uw",
        limit_max=zone / f"{constraint}_max_power_uw",
    )


def _constraint(zone: Path, read: ReadText) -> str:
    """The long-term limit is the one that holds over a second; drivers number it 0, but they may not."""
    for index in range(4):
        if word(read, zone / f"constraint_{index}_name") == "long_term":
            return f"constraint_{index}"
    return "constraint_0"


def _kind(name: str) -> str:
    text = name.lower()
    for prefix, kind in _KINDS:
        if text.startswith(prefix):
            return kind
    return "cpu_core" if text in {"core", "cores", "pp0"} else "cpu_uncore" if text == "pp1" else "other"


def _with_parents(found: list[Domain]) -> list[Domain]:
    """Subzones get their package's name in front, and it as parent where its counter holds theirs."""
    names: dict[str, str] = {}
    made = []
    for domain in found:
        above = names.get(domain.key.rpartition(":")[0])
        name = f"{above}/{domain.name}" if above else domain.name
        names[domain.key] = name
        made.append(replace(domain, name=name, parent=None if domain.kind in {"dram", "psys"} else above))
    return made


def _without_copies(found: list[Domain], read: ReadText) -> list[Domain]:
    """Of domains with one name in several control types, the first that can be read: they show one counter."""
    best: dict[tuple[str, str], Domain] = {}
    for domain in sorted(found, key=lambda d: (d.key.partition(":")[0].endswith("mmio"), d.key.partition(":")[0])):
        control = domain.key.partition(":")[0]
        kept = next((d for (name, other), d in best.items() if name == domain.name and other != control), None)
        if kept is None:
            # Two zones of one control type with one name are two domains, e.g. dies of old kernels.
            best[domain.name, control if (domain.name, control) not in best else domain.key] = domain
        elif number(read, kept.energy) is None and number(read, domain.energy) is not None:
            best = {key: domain if value is kept else value for key, value in best.items()}
    kept_keys = {domain.key for domain in best.values()}
    return [domain for domain in found if domain.key in kept_keys]


def _unique(found: list[Domain]) -> list[Domain]:
    seen: set[str] = set()
    made = []
    for domain in found:
        name = domain.name if domain.name not in seen else f"{domain.name}#{domain.key}"
        seen.add(name)
        made.append(replace(domain, name=name))
    return made
