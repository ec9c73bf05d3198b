"""From documents to rows: whose power is what, what holds what, and which of several views of one thing is taken.

A BMC shows the same watt at several addresses. The order of trust: the processor's own metrics, the chassis' metrics,
the old Power resource, single sensors; what an earlier view names as its data source is not told twice. Pure.
"""

from __future__ import annotations

from collections import Counter

from agents.node.bmc import extract_sensors, reports
from agents.node.bmc.documents import Documents
from agents.node.bmc.gpu_names import names_gpu, processor_kind
from agents.node.bmc.limits import controls, limit_of
from agents.node.bmc.nesting import nest
from agents.node.bmc.rows import DomainRow, SensorRow, Snapshot
from agents.node.bmc.values import (
    ENERGY_MJ,
    POWER_UNITS,
    Json,
    believable,
    health,
    is_whole,
    kind_of,
    listed,
    number,
    reading,
    table,
    text,
)

FEW = 4
POWER_STATES = {"on": 1.0, "off": 0.0}  # what is on its way between them is neither
OUTER = frozenset(
    {"rackmount", "blade", "enclosure", "sled", "standalone", "tower", "rack", "rackgroup", "stationrack"}
)
INNER = frozenset(
    {"module", "component", "card", "drawer", "zone", "cartridge", "expansion", "row", "pod", "other", "shelf"}
)


def snapshot(docs: Documents) -> Snapshot:
    """Everything that these documents say."""
    out = Snapshot(used=reports.apply(docs))
    _states(docs, out)
    shown: set[str] = set()  # sensors that a better view has told already
    rows = _processors(docs, out, shown)
    rows += _chassis(docs, out, shown, rows)
    rows += _distribution(docs, out, shown)
    rows += _power_control(docs, out, rows)
    rows += _supplies(docs, out, shown)
    rows += _power_sensors(docs, out, shown, rows)
    rows += controls(docs, out, rows)
    _idle_zero(rows, out)
    out.domains = nest(docs, rows, out)
    extract_sensors.collect(docs, out, shown)
    out.missing |= _grouped(docs.missing)
    return out


def _grouped(missing: dict[str, str]) -> dict[str, str]:
    """Documents that could not be had, told one by one while they are few, else counted by reason."""
    groups: dict[str, list[str]] = {}
    for part, why in missing.items():
        groups.setdefault(why, []).append(part)
    told: dict[str, str] = {}
    for why, parts in groups.items():
        if len(parts) <= FEW:
            told |= dict.fromkeys(parts, why)
        else:
            told[f"documents ({why[:60]})"] = f"{len(parts)} documents: {why}; the first is {parts[0]}"
    return told


def _states(docs: Documents, out: Snapshot) -> None:
    for uri, doc in docs.of("system").items():
        if state := text(doc.get("PowerState")):
            name = docs.name(uri)
            out.state[name] = state
            out.used.add(uri)
            value = POWER_STATES.get(state.lower())
            if value is None:
                out.missing[f"sensors[{name}/power-state].value"] = f"the BMC says {state!r}: neither on nor off"
            out.sensors.append(SensorRow(f"{name}/power-state", "power_state", "on", value))


def _environment(docs: Documents, out: Snapshot, row: DomainRow, uri: str, doc: Json, shown: set[str]) -> None:
    """Power, energy and limit of an EnvironmentMetrics document into a row."""
    power, source = doc.get("PowerWatts"), docs.link(table(doc.get("PowerWatts")).get("DataSourceUri"))
    limit_of(doc.get("PowerLimitWatts"), row)
    value = reading(power)
    if value is None:
        value = _sensor_watts(docs, source)
    row.power_w, why = believable(value, row.kind, row.limit_max_w)
    if row.power_w is None:
        out.lacks(row.name, "power_w", why or "its metrics give no power reading")
    joules, kwh = reading(doc.get("EnergyJoules")), reading(doc.get("EnergykWh"))
    energy = joules * 1e3 if joules is not None else kwh * 3.6e9 if kwh is not None else None
    row.energy_mj = round(energy) if energy is not None and 0 <= energy < 2**62 else None
    sources = (power, doc.get("EnergyJoules"), doc.get("EnergykWh"))
    found = {
        link
        for part in sources
        if (link := docs.link(table(part).get("DataSourceUri") or table(part).get("@odata.id")))
    }
    shown |= found
    row.origins |= found | {uri}
    out.used |= {uri, *(link for link in found if docs.has(link))}


def _sensor_watts(docs: Documents, uri: str | None) -> float | None:
    doc = docs.of("sensor").get(uri or "")
    return None if doc is None else _watts(doc)


def _watts(doc: Json) -> float | None:
    """A power sensor's reading in watts; without a unit it is watts."""
    unit = text(doc.get("ReadingUnits"))
    factor = 1e6 if unit == "MW" else POWER_UNITS.get(unit.lower()) if unit else 1.0
    value = number(doc.get("Reading"))
    return None if value is None or factor is None else value * factor


def _processors(docs: Documents, out: Snapshot, shown: set[str]) -> list[DomainRow]:
    """GPUs and CPUs with their own metrics."""
    rows = []
    for uri, doc in docs.of("processor").items():
        said = (text(doc.get(name)) for name in ("Model", "Manufacturer"))
        kind = processor_kind(text(doc.get("ProcessorType")), docs.name(uri), *said)
        owners = docs.owned("environment", uri)
        name = docs.name(uri)
        chassis = docs.link(table(doc.get("Links")).get("Chassis")) or ""
        row = DomainRow(name=name, kind=kind, chassis=chassis, health=health(doc), origins=frozenset({uri}))
        for where, metrics in owners.items():
            _environment(docs, out, row, where, metrics, shown)
        if row.power_w is None:
            _consumed(docs, out, row, uri)
        if row.kind == "gpu":
            row.gpu_uuid = _gpu_uuid(doc)
        if row.kind != "gpu" and row.power_w is None and row.energy_mj is None:
            out.missing.pop(f"domains[{name}].power_w", None)
            continue  # CPUs without a power reading are the rule and no news
        if row.power_w is None:
            out.missing.setdefault(f"domains[{name}].power_w", "the BMC gives no power of this GPU")
        rows.append(row)
    return rows


def _consumed(docs: Documents, out: Snapshot, row: DomainRow, processor: str) -> None:
    """Older processors tell their power in ProcessorMetrics."""
    for uri, doc in docs.owned("processor_metrics", processor).items():
        row.power_w, why = believable(number(doc.get("ConsumedPowerWatt")), row.kind, row.limit_max_w)
        out.lacks(row.name, "power_w", why)
        if row.power_w is not None:
            out.used.add(uri)
            out.missing.pop(f"domains[{row.name}].power_w", None)


def _gpu_uuid(doc: Json) -> str | None:
    """NVML's spelling of an NVIDIA GPU's UUID; other vendors' as it stands."""
    uuid = text(doc.get("UUID"))
    maker = text(doc.get("Manufacturer")).lower()
    return f"GPU-{uuid.lower()}" if uuid and "nvidia" in maker and not uuid.upper().startswith("GPU-") else uuid or None


def _chassis(docs: Documents, out: Snapshot, shown: set[str], known: list[DomainRow]) -> list[DomainRow]:
    """Chassis with metrics of their own, but for those that hold a processor which has told already."""
    inside = Counter(row.chassis for row in known)
    holding = {row.chassis for row in known if row.power_w is not None and inside[row.chassis] == 1}
    rows = []
    for uri, doc in docs.of("chassis").items():
        for where, metrics in docs.owned("environment", uri).items():
            kind = _chassis_kind(docs, uri, doc, known)
            row = DomainRow(name=docs.name(uri), kind=kind, chassis=uri, health=health(doc), origins=frozenset({uri}))
            row.gpu_uuid = _gpu_uuid(doc) if kind == "gpu" else None
            scratch = Snapshot()
            _environment(docs, scratch, row, where, metrics, shown)
            if row.power_w is None and row.limit_w is None and row.energy_mj is None:
                continue  # metrics of heat only
            if kind != "chassis" and (uri in holding or _told(docs.name(uri), known)):
                shown |= row.origins
                continue
            row.total = 3 if kind == "chassis" and row.power_w is not None else 0
            out.used |= scratch.used
            out.missing |= scratch.missing
            rows.append(row)
    return rows


def _chassis_kind(docs: Documents, uri: str, doc: Json, known: list[DomainRow]) -> str:
    """An enclosure, a board, or one GPU's own module where no processor has told that GPU's power."""
    said = text(doc.get("ChassisType")).lower()
    named = said not in OUTER and names_gpu(docs.name(uri), text(doc.get("Name")))
    if named and not any(row.kind == "gpu" and row.power_w is not None for row in known):
        return "gpu"
    return "chassis" if _outer(docs, uri, doc) and not named else "board"


def _told(name: str, known: list[DomainRow]) -> bool:
    """Whether a processor of the same name has told already: chassis "HGX_GPU_SXM_1" is processor "GPU_SXM_1"."""
    return any(
        row.kind == "gpu" and row.power_w is not None and len(row.name) > 3 and name.lower().endswith(row.name.lower())
        for row in known
    )


def _distribution(docs: Documents, out: Snapshot, shown: set[str]) -> list[DomainRow]:
    """Power distribution units and the like: what passes through them, in a row of kind "other" each."""
    rows = []
    for uri, doc in docs.of("pdu").items():
        for where, metrics in docs.owned("environment", uri).items():
            row = DomainRow(name=docs.name(uri), kind="other", chassis=uri, health=health(doc))
            _environment(docs, out, row, where, metrics, shown)
            rows.append(row)
    return rows


def _outer(docs: Documents, uri: str, doc: Json) -> bool:
    kind = text(doc.get("ChassisType")).lower()
    contained = docs.link(table(doc.get("Links")).get("ContainedBy"))
    if kind in OUTER:
        return True
    return kind not in INNER - {"other"} and (contained is None or not docs.has(contained))


def _power_control(docs: Documents, out: Snapshot, known: list[DomainRow]) -> list[DomainRow]:
    """The old Power resource: whole power and, with some vendors, that of CPUs and memory."""
    rows = []
    for uri, doc in docs.of("power").items():
        owner = docs.owner.get(uri, "")
        told = next((row for row in known if row.chassis == owner and row.total), None)
        for index, control in enumerate(listed(doc.get("PowerControl"))):
            name = f"{docs.name(owner)}/{text(control.get('Name')) or text(control.get('MemberId')) or index}"
            kind = kind_of(text(control.get("Name")))
            whole = kind in {"other", "supply"}
            row = DomainRow(name=name, kind="chassis" if whole else kind, chassis=owner, health=health(control))
            limit_of(control.get("PowerLimit"), row)
            row.limit_max_w = row.limit_max_w or number(control.get("PowerCapacityWatts")) or None
            value, note = _control_watts(control)
            row.power_w, why = believable(value, row.kind, None)
            if row.power_w is None:
                limit = "" if row.limit_w is None else f"; it states a limit of {row.limit_w:g} W"
                out.missing[f"domains[{name}]"] = (why or "this power control gives no consumed watts") + limit
                continue
            out.used.add(uri)
            if told is not None and whole:
                told.limit_w = row.limit_w if told.limit_w is None else told.limit_w
                continue
            out.lacks(name, "quality", note)
            row.total = 3 if whole else 0
            told = row if whole and told is None else told
            rows.append(row)
    return rows


def _control_watts(control: Json) -> tuple[float | None, str]:
    """Consumed watts now, else the average over the BMC's own interval, which is said."""
    if (now := number(control.get("PowerConsumedWatts"))) is not None:
        return now, ""
    metrics = table(control.get("PowerMetrics"))
    average, minutes = number(metrics.get("AverageConsumedWatts")), number(metrics.get("IntervalInMin"))
    if not average:
        return None, ""
    return average, f"the BMC gives only an average over {minutes or 0:g} minutes"


def _supplies(docs: Documents, out: Snapshot, shown: set[str]) -> list[DomainRow]:
    """Power supplies: what they draw, else what they give."""
    rows = []
    for uri, doc in docs.of("supply").items():
        owner = docs.owner.get(uri, "")
        row = DomainRow(name=f"{docs.name(owner)}/{docs.name(uri)}", kind="supply", chassis=owner, health=health(doc))
        row.limit_max_w = number(doc.get("PowerCapacityWatts"))
        out.used.add(uri)
        for where, metrics in docs.owned("supply_metrics", uri).items():
            for field in ("InputPowerWatts", "OutputPowerWatts"):
                source = docs.link(table(metrics.get(field)).get("DataSourceUri"))
                shown |= {source} if source else set()
                value = reading(metrics.get(field))
                value = _sensor_watts(docs, source) if value is None else value
                if row.power_w is None and value is not None:
                    row.power_w, why = believable(value, "supply", row.limit_max_w)
                    out.lacks(row.name, "power_w", why)
                    out.used |= {where, *([source] if source and docs.has(source) else [])}
        if row.power_w is None:
            out.missing.setdefault(f"domains[{row.name}].power_w", "the supply's metrics give no power reading")
        rows.append(row)
    with_new = {row.chassis for row in rows}
    return rows + [row for row in _old_supplies(docs, out) if row.chassis not in with_new]


def _old_supplies(docs: Documents, out: Snapshot) -> list[DomainRow]:
    rows = []
    for uri, doc in docs.of("power").items():
        owner = docs.owner.get(uri, "")
        for index, supply in enumerate(listed(doc.get("PowerSupplies"))):
            state = text(table(supply.get("Status")).get("State")).lower()
            name = f"{docs.name(owner)}/{text(supply.get('Name')) or text(supply.get('MemberId')) or f'PSU{index}'}"
            if state == "absent":
                out.missing[f"domains[{name}]"] = "absent"
                continue
            row = DomainRow(name=name, kind="supply", chassis=owner, health=health(supply))
            row.limit_max_w = number(supply.get("PowerCapacityWatts"))
            fields = ("PowerInputWatts", "PowerOutputWatts", "LastPowerOutputWatts")
            value = next((v for field in fields if (v := number(supply.get(field))) is not None), None)
            row.power_w, why = believable(value, "supply", row.limit_max_w)
            if row.power_w is None:
                out.lacks(name, "power_w", why or "the supply gives no power reading")
            out.used.add(uri)
            rows.append(row)
    return rows


def _power_sensors(docs: Documents, out: Snapshot, shown: set[str], known: list[DomainRow]) -> list[DomainRow]:
    """Sensors of power that no better view has told."""
    rows, told = [], {row.chassis for row in known if row.total}
    for uri, doc in docs.of("sensor").items():
        kind, unit = text(doc.get("ReadingType")).lower(), text(doc.get("ReadingUnits")).lower()
        if uri in shown or not (kind == "power" or (not kind and unit in POWER_UNITS)):
            continue
        owner, sensor = docs.owner.get(uri, ""), docs.name(uri)
        words = (sensor, text(doc.get("Name")))
        whole = is_whole(*words)
        row = DomainRow(
            name=f"{docs.name(owner)}/{sensor}", kind="chassis" if whole else kind_of(*words), chassis=owner
        )
        row.health, row.origins = health(doc), frozenset({uri})
        row.power_w, why = believable(_watts(doc), row.kind, None)
        row.energy_mj = _paired_energy(docs, out, uri, sensor)
        if row.power_w is None and row.energy_mj is None:
            out.missing[f"domains[{row.name}]"] = why or "the sensor gives no reading"
            continue
        out.used.add(uri)
        row.total = 2 if whole and owner not in told else 0
        rows.append(row)
    return rows


def _paired_energy(docs: Documents, out: Snapshot, uri: str, sensor: str) -> int | None:
    """The energy counter beside a power sensor: the same name with another word for the quantity."""
    stem = _stem(sensor)
    for other, doc in docs.owned("sensor", docs.owner.get(uri, "")).items():
        if text(doc.get("ReadingType")).lower().startswith("energy") and _stem(docs.name(other)) == stem:
            unit = text(doc.get("ReadingUnits")).lower()
            factor = ENERGY_MJ.get(unit) or {"energyjoules": 1e3, "energykwh": 3.6e9, "energywh": 3.6e6}.get(
                text(doc.get("ReadingType")).lower()
            )
            value = number(doc.get("Reading"))
            if factor and value is not None and 0 <= value * factor < 2**62:
                out.used.add(other)
                return round(value * factor)
    return None


def _stem(name: str) -> str:
    joined = name.lower()
    for word in ("power", "pwr", "energy"):
        joined = joined.replace(word, "")
    return joined


def _idle_zero(rows: list[DomainRow], out: Snapshot) -> None:
    """A running system does not draw nothing."""
    if not any(state.lower() == "on" for state in out.state.values()):
        return
    for row in rows:
        if row.kind == "chassis" and row.power_w == 0:
            row.power_w, row.total = None, 0
            out.lacks(row.name, "power_w", "reads 0 W while a system is on: not believed")
