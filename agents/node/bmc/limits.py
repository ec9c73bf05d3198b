"""Power limits: of metrics, of the old PowerLimit object, and of Controls, put at the domain they bound. Pure."""

from __future__ import annotations

from agents.node.bmc.documents import Documents
from agents.node.bmc.rows import DomainRow, Snapshot
from agents.node.bmc.values import Json, believable, health, kind_of, listed, number, reading, table, text


def limit_of(value: object, row: DomainRow) -> None:
    """The limit in force and its bounds into a row; a limit that is switched off is none."""
    control = table(value)
    if text(control.get("ControlMode")).lower() == "disabled":
        return
    set_point = number(control.get("SetPoint"))
    limit = set_point if set_point is not None else number(control.get("LimitInWatts"))
    row.limit_w = limit if limit is not None and limit > 0 else None
    row.limit_min_w, row.limit_max_w = _bound(control, "AllowableMin"), _bound(control, "AllowableMax")


def _bound(control: Json, name: str) -> float | None:
    value = number(control.get(name))
    return value if value is not None and value >= 0 else None


def controls(docs: Documents, out: Snapshot, rows: list[DomainRow]) -> list[DomainRow]:
    """Controls of power: their limit goes to the domain that they name, else they become one."""
    made = []
    for uri, doc in docs.of("control").items():
        unit, what = text(doc.get("SetPointUnits")).lower(), text(doc.get("ControlType")).lower()
        if what not in {"", "power"} or unit not in {"", "w", "watts"} or (not what and not unit):
            continue
        found = DomainRow(name=f"{docs.name(docs.owner.get(uri, ''))}/{docs.name(uri)}", kind="other")
        limit_of(doc, found)
        out.used.add(uri)
        if (row := _domain(docs, uri, doc, rows)) is not None:
            if row.limit_w is None:
                row.limit_w, row.limit_min_w = found.limit_w, found.limit_min_w
                row.limit_max_w = found.limit_max_w or row.limit_max_w
            continue
        found.chassis, found.health = docs.owner.get(uri, ""), health(doc)
        words = (docs.name(uri), text(doc.get("Name")), text(doc.get("PhysicalContext")))
        found.kind = kind_of(*words)
        found.power_w, why = believable(reading(doc.get("Sensor")), found.kind, found.limit_max_w)
        if found.power_w is None:
            out.lacks(found.name, "power_w", why or "this control names no sensor")
        if found.power_w is not None or found.limit_w is not None:
            made.append(found)
    return made


def _domain(docs: Documents, uri: str, doc: Json, rows: list[DomainRow]) -> DomainRow | None:
    """By its sensor, by the one thing that it is related to, or the chassis that it is a control of."""
    sensor = docs.link(table(doc.get("Sensor")).get("DataSourceUri"))
    related = [link for item in listed(doc.get("RelatedItem")) if (link := docs.link(item))]
    wanted = ({sensor} if sensor else set()) | (set(related) if len(related) == 1 else set())
    if (found := next((row for row in rows if row.origins & wanted), None)) is not None:
        return found
    if len(related) > 1 or (sensor in wanted and sensor is not None and docs.has(sensor)):
        return None
    context = text(doc.get("PhysicalContext")).lower()
    if context and context not in {"chassis", "system", "systemboard", "powersupply", "intake"}:
        return None
    return next((row for row in rows if row.total and row.chassis == docs.owner.get(uri)), None)
