"""Fans, temperatures, voltages and currents of a BMC, each once: new resources before old ones. Pure.

Units are judged by size where firmware mislabels them: a fan "percentage" of 4,730 is a speed.
"""

from __future__ import annotations

from typing import Final

from agents.node.bmc.documents import Documents
from agents.node.bmc.rows import SensorRow, Snapshot
from agents.node.bmc.values import Json, listed, number, reading, table, text

MOST_PERCENT: Final = 120.0  # some fans run a little above their nominal speed
KINDS: Final = {
    "temperature": ("temperature", "c"),
    "voltage": ("voltage", "v"),
    "current": ("current", "a"),
    "humidity": ("humidity", "percent"),
    "rotational": ("fan", "rpm"),
}
BOUNDS: Final = {"c": (-60.0, 250.0), "v": (-1000.0, 100_000.0), "a": (-10_000.0, 100_000.0), "rpm": (0.0, 100_000.0)}


def collect(docs: Documents, out: Snapshot, shown: set[str]) -> None:
    """Adds every sensor that is no power to the snapshot."""
    fans = _fans(docs, out, shown)
    _metrics(docs, out, shown)
    sensed = _sensors(docs, out, shown)
    _old_thermal(docs, out, fans, sensed)
    _old_voltages(docs, out, sensed)
    _once_named(out)


def _add(out: Snapshot, name: str, kind: str, unit: str, value: float | None, doc: Json) -> None:
    """A row; an absent part is left out, an odd value is null with its reason."""
    if text(table(doc.get("Status")).get("State")).lower() == "absent":
        out.missing[f"sensors[{name}]"] = "absent"
        return
    low, high = BOUNDS.get(unit, (-1e9, 1e9))
    if value is not None and not low <= value <= high:
        out.missing[f"sensors[{name}].value"] = f"reads {value:g} {unit}, outside {low:g} to {high:g}: not believed"
        value = None
    elif value is None:
        out.missing[f"sensors[{name}].value"] = "the sensor gives no reading"
    out.sensors.append(SensorRow(name, kind, unit, value))


def _speed(value: float | None, rpm: float | None, unit: str) -> tuple[float | None, str]:
    """A fan's speed and its unit; what is called a percentage and is none is a speed."""
    if rpm is not None:
        return rpm, "rpm"
    if value is not None and unit == "percent" and value > MOST_PERCENT:
        return value, "rpm"
    return value, unit


def _fans(docs: Documents, out: Snapshot, shown: set[str]) -> set[str]:
    """Fan resources; returns the chassis that have them."""
    owners = set()
    for uri, doc in docs.of("fan").items():
        owner = docs.owner.get(uri, "")
        owners.add(owner)
        speed = doc.get("SpeedPercent")
        value, unit = _speed(reading(speed), number(table(speed).get("SpeedRPM")), "percent")
        source = docs.link(table(speed).get("DataSourceUri"))
        if value is None and (sensor := docs.of("sensor").get(source or "")) is not None:
            value, unit = _speed(number(sensor.get("Reading")), None, _fan_unit(sensor))
        if source:
            shown.add(source)
        out.used |= {uri, *([source] if source and docs.has(source) else [])}
        _add(out, f"{docs.name(owner)}/{docs.name(uri)}", "fan", unit, value, doc)
    return owners


def _fan_unit(doc: Json) -> str:
    unit = text(doc.get("ReadingUnits")).lower()
    kind = text(doc.get("ReadingType")).lower()
    return "percent" if unit in {"%", "percent"} or (kind == "percent" and unit != "rpm") else "rpm"


def _metrics(docs: Documents, out: Snapshot, shown: set[str]) -> None:
    """Temperatures that have no sensor of their own: of processors' metrics."""
    for uri, doc in docs.of("environment").items():
        excerpt = doc.get("TemperatureCelsius")
        source = docs.link(table(excerpt).get("DataSourceUri"))
        if reading(excerpt) is None or (source and docs.has(source)):
            continue
        out.used.add(uri)
        _add(out, f"{docs.name(docs.owner.get(uri, ''))}/temperature", "temperature", "c", reading(excerpt), {})


def _sensors(docs: Documents, out: Snapshot, shown: set[str]) -> set[tuple[str, str]]:
    """Sensor resources; returns (chassis, kind) that they cover."""
    covered = set()
    for uri, doc in docs.of("sensor").items():
        owner, what = docs.owner.get(uri, ""), text(doc.get("ReadingType")).lower()
        unit_said = text(doc.get("ReadingUnits")).lower()
        if uri in shown:
            continue
        kind, unit = KINDS.get(what) or _by_unit(unit_said, docs.name(uri)) or ("", "")
        if not kind:
            continue
        value = number(doc.get("Reading"))
        if kind == "fan":
            value, unit = _speed(value, number(doc.get("SpeedRPM")), _fan_unit(doc))
        elif kind == "temperature" and unit_said in {"f", "degf", "fahrenheit"} and value is not None:
            value = (value - 32) / 1.8
        elif kind == "voltage" and unit_said == "mv" and value is not None:
            value /= 1000
        covered.add((owner, kind))
        out.used.add(uri)
        _add(out, f"{docs.name(owner)}/{docs.name(uri)}", kind, unit, value, doc)
    return covered


def _by_unit(unit: str, name: str) -> tuple[str, str] | None:
    units = {"cel": "temperature", "c": "temperature", "v": "voltage", "a": "current", "rpm": "rotational"}
    if unit in {"%", "percent"} and "fan" in name.lower():
        return ("fan", "percent")
    return KINDS.get(units.get(unit, ""))


def _old_thermal(docs: Documents, out: Snapshot, fans: set[str], sensed: set[tuple[str, str]]) -> None:
    for uri, doc in docs.of("thermal").items():
        owner = docs.owner.get(uri, "")
        out.used.add(uri)
        if owner not in fans and (owner, "fan") not in sensed:
            for index, fan in enumerate(listed(doc.get("Fans"))):
                name = text(fan.get("Name")) or text(fan.get("FanName")) or text(fan.get("MemberId")) or f"fan{index}"
                said = "percent" if text(fan.get("ReadingUnits")).lower() in {"percent", "%"} else "rpm"
                value = number(fan.get("Reading"))
                value, unit = _speed(number(fan.get("ReadingRPM")) if value is None else value, None, said)
                _add(out, f"{docs.name(owner)}/{name}", "fan", unit, value, fan)
        if (owner, "temperature") not in sensed:
            for index, one in enumerate(listed(doc.get("Temperatures"))):
                name = text(one.get("Name")) or text(one.get("MemberId")) or f"temperature{index}"
                _add(out, f"{docs.name(owner)}/{name}", "temperature", "c", number(one.get("ReadingCelsius")), one)


def _old_voltages(docs: Documents, out: Snapshot, sensed: set[tuple[str, str]]) -> None:
    for uri, doc in docs.of("power").items():
        owner = docs.owner.get(uri, "")
        if (owner, "voltage") in sensed:
            continue
        for index, one in enumerate(listed(doc.get("Voltages"))):
            name = text(one.get("Name")) or text(one.get("MemberId")) or f"voltage{index}"
            out.used.add(uri)
            _add(out, f"{docs.name(owner)}/{name}", "voltage", "v", number(one.get("ReadingVolts")), one)


def _once_named(out: Snapshot) -> None:
    """Two sensors of one name are told apart by a number; one shown twice with one value is told once."""
    seen: dict[str, list[SensorRow]] = {}
    kept = []
    for row in out.sensors:
        twins = seen.setdefault(row.name, [])
        if any(twin == row for twin in twins):
            continue
        kept.append(SensorRow(f"{row.name}#{len(twins) + 1}", row.kind, row.unit, row.value) if twins else row)
        twins.append(row)
    out.sensors = kept
