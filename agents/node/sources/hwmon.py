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
_MONITORS: Final = frozenset({"ina3221", "ina219", "ina226", "ina230", "ina238"})
MOST_RAILS: Final = 8
_SOCKET: Final = re.compile(r"^(?P<part>module|grace|cpu|sysio|gpu|dram) power socket (?P<number>\d+)$")
_PARTS: Final = {  # what NVIDIA's meters of one socket measure, and what holds it
    "module": ("board", ()),
    "grace": ("cpu_package", ("module",)),
    "cpu": ("cpu_core", ("grace", "module")),
    "sysio": ("cpu_uncore", ("grace", "module")),
    "dram": ("dram", ("grace", "module")),
    "gpu": ("gpu", ("module",)),
}
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
    return _nested(_without_cores(list(found.values())))[:MAX_SENSORS]


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
        label = word(read, file.with_name(f"{what}{index}_label")) or word(
            read, file.with_name(f"{what}{index}_oem_info")
        )
        key = f"{name}/{label or index}"
        domain = made.get(key) or Domain(key=key, name=key, kind=_kind(name, label), source="hwmon")
        if what == "energy":
            domain = replace(domain, energy=file)
        elif domain.power is None or form == "input":
            caps = [file.with_name(f"{what}{index}_{part}") for part in ("cap", "cap_min", "cap_max")]
            domain = replace(domain, power=file, limit=caps[0], limit_min=caps[1], limit_max=caps[2])
        made[key] = domain
    return [*made.values(), *(() if made else _products(name, chip, read))]


def _products(name: str, chip: Path, read: ReadText) -> Iterable[Domain]:
    """Rails of a monitor that gives only voltage and current, e.g. Jetson's ina3221; rails without a name are none."""
    for index in range(1, MOST_RAILS + 1):
        label = word(read, chip / f"in{index}_label")
        volts, amperes = chip / f"in{index}_input", chip / f"curr{index}_input"
        if name in _MONITORS and label and label.upper() != "NC" and volts.exists() and amperes.exists():
            key = f"{name}/{label}"
            yield Domain(key=key, name=key, kind=_kind(name, label), source="hwmon", product=(volts, amperes))


def _sensors(chip: Path) -> list[tuple[Path, str, int, str]]:
    """Power first, then energy; an average before an instant value, which replaces it."""
    found: list[tuple[Path, str, int, str]] = []
    for folder in (chip, chip / "device"):
        try:
            matches = [(path, _SENSOR.match(path.name)) for path in folder.iterdir()]
        except OSError:
            continue
        found = found or [(path, m[1], int(m[2]), m[3]) for path, m in matches if m is not None]
    return sorted(found, key=lambda s: (s[1] != "power", s[2], s[3]))


def _kind(chip: str, label: str) -> str:
    text = label.lower()
    if (socket := _SOCKET.match(text)) is not None:
        return _PARTS[socket["part"]][0]
    if chip in _CPU or text.startswith(("esocket", "ecore")):
        return "cpu_core" if text.startswith("ecore") or "core" in text else "cpu_package"
    if chip in _GPU:
        return "gpu"
    if chip in _CHASSIS:
        return "chassis"
    return "supply" if chip.lower().startswith(_SUPPLY) else "other"


def _without_cores(found: list[Domain]) -> list[Domain]:
    chips = {domain.name.partition("/")[0] for domain in found if domain.kind == "cpu_package"} & _CPU
    return [d for d in found if d.kind != "cpu_core" or d.name.partition("/")[0] not in chips]


def _nested(found: list[Domain]) -> list[Domain]:
    """Gives each meter of a socket the one that holds it, so that no watt counts twice."""
    sockets = {d.name: m for d in found if (m := _SOCKET.match(d.name.partition("/")[2].lower())) is not None}
    names = {(m["part"], m["number"]): name for name, m in sockets.items()}
    made = []
    for domain in found:
        if (socket := sockets.get(domain.name)) is not None:
            holders = (names.get((part, socket["number"])) for part in _PARTS[socket["part"]][1])
            domain = replace(domain, parent=next((name for name in holders if name), None))
        made.append(domain)
    return made
