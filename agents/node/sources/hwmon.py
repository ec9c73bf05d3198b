"""Finds power and energy sensors under /sys/class/hwmon: AMD sockets, ACPI power meters, supplies, boards, GPUs.

Which hwmon number a chip has changes between starts, so its name and label are its identity. AMD lists a counter per
core beside the socket's, which holds them: cores are left out where their socket is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from agents.node.sources.power_domain import Domain, ReadText, word

MAX_SENSORS: Final = 256
_SENSOR: Final = re.compile(r"^(power|energy)(\d{1,3})_(input|average)$")
_CPU: Final = frozenset({"amd_energy", "fam15h_power", "zenpower", "zenergy"})
_GPU: Final = frozenset({"amdgpu", "i915", "xe", "nouveau"})
_CHASSIS: Final = frozenset({"power_meter", "acpi_power_meter"})
_SUPPLY: Final = ("psu", "pmbus", "dps", "crps", "ibm-cffps", "fsp", "corsair")


def folder_of(root: Path) -> Path:
    """Where the hwmon class lies under a root that is a host's "/" or its sys/."""
    under = root / "class/hwmon"
    return under if under.is_dir() else root / "sys/class/hwmon"


def domains(folder: Path, read: ReadText) -> list[Domain]:
    """Every sensor of power or energy, each once, in the order of chips."""
    found: dict[str, Domain] = {}
    for chip in sorted(_folders(folder), key=lambda path: (len(path.name), path.name)):
        for domain in _of_chip(chip, read):
            key, count = domain.key, 2
            while domain.key in found:
                domain = replace(domain, key=f"{key}#{count}", name=f"{key}#{count}")
                count += 1
            found[domain.key] = domain
    return _without_cores(list(found.values()))[:MAX_SENSORS]


def _folders(folder: Path) -> Iterable[Path]:
    try:
        return [path for path in folder.iterdir() if path.name.startswith("hwmon") and path.is_dir()]
    except OSError:
        return []


def _of_chip(chip: Path, read: ReadText) -> list[Domain]:
    """One domain per label: a chip may give power and energy of the same thing under one label."""
    name = word(read, chip / "name") or chip.name
    made: dict[str, Domain] = {}
    for file, what, index, form in _sensors(chip):
        label = word(read, chip / f"{what}{index}_label")
        key = f"{name}/{label or index}"
        domain = made.get(key) or Domain(key=key, name=key, kind=_kind(name, label), source="hwmon")
        if what == "energy":
            domain = replace(domain, energy=file)
        elif domain.power is None or form == "input":
            caps = [chip / f"{what}{index}_{part}" for part in ("cap", "cap_min", "cap_max")]
            domain = replace(domain, power=file, limit=caps[0], limit_min=caps[1], limit_max=caps[2])
        made[key] = domain
    return list(made.values())


def _sensors(chip: Path) -> list[tuple[Path, str, int, str]]:
    """Power first, then energy; an average before an instant value, which replaces it."""
    try:
        matches = [(path, _SENSOR.match(path.name)) for path in chip.iterdir()]
    except OSError:
        return []
    found = [(path, m[1], int(m[2]), m[3]) for path, m in matches if m is not None]
    return sorted(found, key=lambda s: (s[1] != "power", s[2], s[3]))


def _kind(chip: str, label: str) -> str:
    text = label.lower()
    if chip in _CPU or text.startswith(("esocket", "ecore")):
        return "cpu_core" if text.startswith("ecore") or "core" in text else "cpu_package"
    if chip in _GPU:
        return "gpu"
    if chip in _CHASSIS:
        return "chassis"
    return "supply" if chip.lower().startswith(_SUPPLY) else "other"


def _without_cores(found: list[Domain]) -> list[Domain]:
    chips = {domain.name.partition("/")[0] for domain in found if domain.kind == "cpu_package"}
    return [d for d in found if d.kind != "cpu_core" or d.name.partition("/")[0] not in chips]
