"""What ipmitool prints: DCMI's power reading and limit, and sensor lists in its three shapes. Text in, values out.

Lines that are none of these are left out and counted; BMCs send odd bytes in sensor names.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from typing import Final

from agents.node.bmc.values import number

_INSTANT: Final = re.compile(r"^\s*Instantaneous power reading:\s*([\d.]+)\s*Watts", re.M | re.I)
_AVERAGE: Final = re.compile(r"^\s*Average power reading over sample period:\s*([\d.]+)\s*Watts", re.M | re.I)
_STATE: Final = re.compile(r"^\s*Power reading state is:\s*(\S+)", re.M | re.I)
_LIMIT_STATE: Final = re.compile(r"^\s*Current Limit State:\s*(.+?)\s*$", re.M | re.I)
_LIMIT: Final = re.compile(r"^\s*Power Limit:\s*([\d.]+)\s*Watts", re.M | re.I)
_NUMBER: Final = re.compile(r"^(-?\d+(?:\.\d+)?)\s*(.*)$")
# unit word -> (kind, unit of the contract, factor)
UNITS: Final = {
    "watts": ("power", "w", 1.0),
    "watt": ("power", "w", 1.0),
    "w": ("power", "w", 1.0),
    "rpm": ("fan", "rpm", 1.0),
    "degrees c": ("temperature", "c", 1.0),
    "volts": ("voltage", "v", 1.0),
    "amps": ("current", "a", 1.0),
    "percent": ("fan", "percent", 1.0),
    "% rpm": ("fan", "percent", 1.0),
}
_ABSENT: Final = frozenset({"ns", "na", "disabled", "no reading", "not readable", "unknown", "not present"})


@dataclass(frozen=True, slots=True)
class Sensor:
    """One line of a sensor list; `value` None = listed without a reading."""

    name: str
    unit: str
    value: float | None


@dataclass(frozen=True, slots=True)
class Dcmi:
    """DCMI's power reading; `reason` says why there is none."""

    power_w: float | None
    reason: str = ""


def dcmi(text: str) -> Dcmi | None:
    """The power reading, None when the text is none."""
    found, average, state = _INSTANT.search(text), _AVERAGE.search(text), _STATE.search(text)
    if found is None and average is None:
        return None
    if state is not None and not state[1].lower().startswith("activ"):
        return Dcmi(None, f"DCMI's power measurement is {state[1].lower()}")
    value = number(found[1]) if found else None
    if value == 0 and average is not None and not number(average[1]):
        return Dcmi(None, "DCMI reads 0 W now and on average: this BMC does not measure")
    return Dcmi(value)


def limit_w(text: str) -> float | None:
    """DCMI's power limit where one is active."""
    state, value = _LIMIT_STATE.search(text), _LIMIT.search(text)
    if state is None or value is None or not re.match(r"power limit active|active", state[1], re.I):
        return None
    return number(value[1]) or None


def sensors(text: str) -> tuple[list[Sensor], int]:
    """(sensors with a unit, lines that are no sensor) of `-c sdr list`, `sdr list` or `sensor`."""
    found, odd = [], 0
    for line in text.splitlines():
        if not line.strip():
            continue
        sensor = _piped(line) if "|" in line else _comma(line)
        if sensor is None:
            odd += 1
        elif sensor.unit:
            found.append(sensor)
    return found, odd


def _comma(line: str) -> Sensor | None:
    """name,value,unit,status[,...]"""
    try:
        cells = [cell.strip() for cell in next(csv.reader([line]), [])]
    except csv.Error:
        return None
    if len(cells) < 3:
        return None
    return _sensor(cells[0], cells[1], cells[2])


def _piped(line: str) -> Sensor | None:
    """name | 210 Watts | ok  or  name | 210.000 | Watts | ok | thresholds"""
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) < 3:
        return None
    if len(cells) >= 4 and cells[2].lower() in UNITS:
        return _sensor(cells[0], cells[1], cells[2])
    for cell in (cells[1], cells[-1]):  # `sdr elist` has the value last
        if (match := _NUMBER.match(cell)) is not None and match[2].lower() in UNITS:
            return _sensor(cells[0], match[1], match[2])
    return Sensor(_name(cells[0]), "", None)


def _sensor(name: str, value: str, unit: str) -> Sensor | None:
    word = unit.strip().lower()
    if not _name(name):
        return None
    if word not in UNITS:
        return Sensor(_name(name), "", None)
    parsed = None if value.lower() in _ABSENT else number(value)
    return Sensor(_name(name), word, parsed)


def _name(name: str) -> str:
    return "".join(c for c in name if c.isprintable() and c != "�").strip()[:64]
