"""Metric reports: many values in one document. They fill sensors without a reading and stand in for those not listed.

A value that its maker marks stale is not used; a value whose own document was read is not told twice. No I/O.
"""

from __future__ import annotations

from typing import Final

from agents.node.bmc.documents import Documents
from agents.node.bmc.values import Json, listed, number, table, text

_MADE: Final = "@eo.report"
_TYPES: Final = (
    ("energy", "EnergyJoules"),
    ("power", "Power"),
    ("pwr", "Power"),
    ("watts", "Power"),
    ("temp", "Temperature"),
    ("volt", "Voltage"),
    ("fan", "Rotational"),
)


def apply(docs: Documents) -> set[str]:
    """Puts what reports say where nothing better says it; returns the reports that were of use."""
    used = set()
    for report, doc in docs.of("report").items():
        for value in listed(doc.get("MetricValues")):
            if not _stale(value) and _take(docs, report, value):
                used.add(report)
    return used


def _stale(value: Json) -> bool:
    return any(table(maker).get("MetricValueStale") is True for maker in table(value.get("Oem")).values())


def _take(docs: Documents, report: str, value: Json) -> bool:
    reading, prop = number(value.get("MetricValue")), value.get("MetricProperty")
    if reading is None or not isinstance(prop, str) or not prop:
        return False
    base, _, fragment = prop.partition("#")
    uri = docs.link(base.removesuffix("/Reading"))
    if uri is None:
        return False
    sensor = docs.of("sensor").get(uri)
    if sensor is not None and (sensor.get(_MADE) or number(sensor.get("Reading")) is None):
        docs.of("sensor")[uri] = {**sensor, "Reading": reading}
        docs.origin[uri] = report
        return True
    if sensor is not None or docs.has(uri):
        return False
    name = text(value.get("MetricId")) or (fragment or uri).rpartition("/")[2]
    what = next((kind for word, kind in _TYPES if word in f"{name} {uri} {fragment}".lower()), "")
    if not what or (fragment and "watts" not in fragment.lower()):
        return False
    made = {"Id": name, "ReadingType": what, "Reading": reading, _MADE: True}
    docs.put("sensor", f"{uri}#{fragment}" if fragment else uri, made, origin=report, owner=_owner(uri))
    return True


def _owner(uri: str) -> str:
    """The chassis of an address, which the walk may not have listed."""
    parts = uri.split("/")
    return "/".join(parts[:5]) if len(parts) > 4 and parts[3] == "Chassis" else ""
