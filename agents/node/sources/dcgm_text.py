"""dcgm-exporter's samples as GPU columns: names to fields, slices and workloads sorted out, units checked. Pure.

Board values never stand under a slice: what a MIG slice's series carries of the board is the board's, once. A GPU that
several pods share has no pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

from agents.node.sources import units
from agents.node.sources.clean import printable
from agents.node.sources.dcgm_fields import BY_NAME, COLUMNS, FIELDS, Field, blank, no_value, reading
from agents.node.sources.prom_text import Sample, Samples
from streams.contract.records import GpuColumns, GpuState

MAX_GPUS: Final = 1024  # of a whole cluster's federated text; a node has 16
_UUID: Final = ("uuid", "gpu_uuid")
_INDEX: Final = "INDEX-"  # stands in for a UUID that no series of a GPU carries
_MODEL: Final = ("modelname", "model_name", "dcgm_fi_dev_gpu_name", "dcgm_fi_dev_name", "gpu_name")
_WORKLOAD: Final = ("namespace", "pod", "container")
# Behind Prometheus the exporter's own pod stands in `pod` and the workload's in `exported_pod`.
_EXPORTED: Final = ("exported_namespace", "exported_pod", "exported_container")
_SPELLINGS: Final = (_EXPORTED, ("pod_namespace", "pod_name", "container_name"), _WORKLOAD)
_SLICE: Final = ("gpu_i_id", "gpu_i_profile")
Workload = tuple[str | None, str, str | None]  # namespace, pod, container
FALLEN_OFF_THE_BUS: Final = 79  # Xid: the GPU does not answer any more


@dataclass(slots=True)
class Owner:
    """Whose value a label block marks: GPU, slice, host, workload."""

    uuid: str
    index: int
    host: str
    model: str | None
    slice: str | None
    workload: Workload | None
    exported: bool


@dataclass(slots=True)
class Gpu:
    """What the text says of one GPU."""

    owner: Owner
    board: dict[int, list[float]] = field(default_factory=dict)
    sliced: dict[int, list[float]] = field(default_factory=dict)
    slices: set[str] = field(default_factory=set)
    workloads: set[Workload] = field(default_factory=set)
    exported: set[Workload] = field(default_factory=set)
    row: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Units:
    """Factors decided at the first text that had values; a later odd value does not change a unit."""

    factor: dict[int, float] = field(default_factory=dict)
    warning: dict[int, str] = field(default_factory=dict)


def columns(samples: Samples, known: Units, host: str = "") -> tuple[GpuColumns | None, dict[str, str]]:
    """(GPU columns, part -> reason of what is missing or doubtful); None when no series names a GPU.

    `host` is this node's name: where a text speaks of several hosts and of this one, the others' GPUs are not ours.
    """
    missing: dict[str, str] = {}
    gpus = _ours(_gather(samples, missing), host, missing)
    if not gpus:
        return None, missing
    _decide_units(gpus, samples.help, known, missing)
    for gpu in gpus:
        _fill(gpu, known, missing)
    _explain(gpus, missing)
    return _columns(gpus), missing


# --- who is who ------------------------------------------------------------------------------------------------------


def _owner(labels: Mapping[str, str]) -> Owner | None:
    low = {key.lower(): printable(value.strip()) for key, value in labels.items()}
    uuid = _first(low, _UUID)
    index = low.get("gpu", "")
    index = index if index.isascii() and index.isdigit() and len(index) < 9 else ""
    host = _first(low, ("hostname", "kubernetes_node", "node", "instance")) or ""
    if uuid is None and not index:
        return None
    uuid = uuid or f"{_INDEX}{host}{'-' if host else ''}{index}"
    part = _first(low, _SLICE)
    if uuid.startswith("MIG-"):
        part = part or uuid
    workload = next((found for names in _SPELLINGS if (found := _workload(low, names)) is not None), None)
    return Owner(
        uuid=uuid,
        index=int(index) if index else 1 << 30,
        host=host,
        model=_first(low, _MODEL),
        slice=part,
        workload=workload,
        exported=bool(low.get("exported_pod")),
    )


def _workload(low: Mapping[str, str], names: tuple[str, str, str]) -> Workload | None:
    """The workload in one spelling, all of it; an exporter's own pod is none."""
    namespace, pod, container = (low.get(name) or None for name in names)
    if pod is None or "dcgm-exporter" in pod or "dcgm-exporter" in (container or ""):
        return None
    return namespace, pod, container


def _first(low: Mapping[str, str], names: Iterable[str]) -> str | None:
    return next((low[name] for name in names if low.get(name)), None)


def _gather(samples: Samples, missing: dict[str, str]) -> list[Gpu]:
    owners: dict[int, Owner | None] = {}  # the parser shares label blocks, so their identity is a key
    found: dict[str, Gpu] = {}
    homeless: set[str] = set()
    for sample in samples:
        number = BY_NAME.get(sample.name)
        key = id(sample.labels)
        if key not in owners:
            owners[key] = _owner(sample.labels)
        owner = owners[key]
        if owner is None:
            if number is not None:
                homeless.add(sample.name)
        elif owner.uuid not in found and len(found) >= MAX_GPUS:
            missing["gpus"] = f"more than {MAX_GPUS} GPUs in one text; the rest is not read"
        elif number is not None or sample.name.startswith(("DCGM_", "dcgm_")):
            _add(found, owner, number, sample)
    if homeless:
        missing["gpus"] = f"{len(homeless)} series name no GPU and are not used, e.g. {min(homeless)}"
    if any(gpu.exported for gpu in found.values()):  # then every bare pod in this text is an exporter's
        for gpu in found.values():
            gpu.workloads = gpu.exported
    parents = {(g.owner.host, g.owner.index): g for u, g in found.items() if not u.startswith(("MIG-", _INDEX))}
    for uuid in [uuid for uuid in found if uuid.startswith(("MIG-", _INDEX))]:
        _adopt(found, uuid, parents, missing)
    return sorted(found.values(), key=lambda gpu: (gpu.owner.host, gpu.owner.index))


def _ours(gpus: list[Gpu], host: str, missing: dict[str, str]) -> list[Gpu]:
    hosts = {gpu.owner.host for gpu in gpus}
    ours = [gpu for gpu in gpus if gpu.owner.host.partition(":")[0].partition(".")[0] == host.partition(".")[0]]
    if len(hosts) < 2 or not host:
        return gpus
    told = f"the text speaks of {len(hosts)} hosts"
    missing["hosts"] = f"{told}; only the GPUs of {host} are read" if ours else f"{told}, none of them called {host}"
    return ours or gpus


def _add(found: dict[str, Gpu], owner: Owner, number: Field | None, sample: Sample) -> None:
    gpu = found.setdefault(owner.uuid, Gpu(owner))
    gpu.owner.model = gpu.owner.model or owner.model
    if owner.slice is not None:
        gpu.slices.add(owner.slice)
    elif owner.workload is not None:
        (gpu.exported if owner.exported else gpu.workloads).add(owner.workload)
    if number is not None:
        values = gpu.board if owner.slice is None else gpu.sliced
        values.setdefault(number.number, []).append(sample.value)


def _adopt(found: dict[str, Gpu], uuid: str, parents: Mapping[tuple[str, int], Gpu], missing: dict[str, str]) -> None:
    """Gives the series of a MIG UUID, or of an index alone, to the GPU of the same index on the same host."""
    part = found[uuid]
    parent = parents.get((part.owner.host, part.owner.index))
    if parent is None and uuid.startswith(_INDEX):
        missing[f"gpus[{uuid}].uuid"] = "the text names no UUID; its index stands in, which a restart may change"
        return
    del found[uuid]
    if parent is None:
        missing[f"gpus[{uuid}]"] = "a MIG slice whose GPU has no series of its own: its board is unknown"
        return
    parent.slices |= part.slices
    parent.workloads |= part.workloads
    for mine, theirs in ((parent.board, part.board), (parent.sliced, part.sliced)):
        for number, values in theirs.items():
            mine.setdefault(number, []).extend(values)


# --- values ----------------------------------------------------------------------------------------------------------


def _decide_units(gpus: list[Gpu], help_texts: Mapping[str, str], known: Units, missing: dict[str, str]) -> None:
    for each in FIELDS:
        values = [v for g in gpus for v in _given(g, each.number)]
        values = [v for v in values if no_value(each, v) is None]
        if each.number not in known.factor and any(values):
            text = next((help_texts[name] for name in each.names if name in help_texts), None)
            known.factor[each.number], warning = units.scale(each, values, text)
            if warning is not None:
                known.warning[each.number] = warning
    _power_against_limits(gpus, known)
    for number, warning in known.warning.items():
        column = next(f.column for f in FIELDS if f.number == number)
        missing[f"gpus.{column}"] = f"warning: {warning}"


def _power_against_limits(gpus: list[Gpu], known: Units) -> None:
    """Milliwatts of an idle board look like watts of a busy one; its limit tells them apart."""
    limits = [_limit(gpu, known) for gpu in gpus]
    for number in (155, 157):
        factor = known.factor.get(number, 0.0)
        raw = [next(iter(_given(gpu, number)), None) for gpu in gpus]
        power = [None if v is None or blank(v, real=True) else v * factor for v in raw]
        if number not in known.warning and units.power_against_limit(power, limits):
            known.factor[number] = factor * 1e-3
            seen = median(v for v in power if v)
            known.warning[number] = f"{seen:g} is far above the boards' limits: read as milliwatts"


def _limit(gpu: Gpu, known: Units) -> float | None:
    for number in (164, 160, 162, 163):
        values = _given(gpu, number)
        if values and values[0] and blank(values[0], real=True) is None:
            return values[0] * known.factor.get(number, 1.0)
    return None


def _given(gpu: Gpu, number: int) -> list[float]:
    return gpu.board.get(number) or gpu.sliced.get(number) or []


def _fill(gpu: Gpu, known: Units, missing: dict[str, str]) -> None:
    name = f"gpus[{gpu.owner.uuid}]"
    for each in sorted(FIELDS, key=lambda f: f.rank):
        if gpu.row.get(each.column) is not None:
            continue
        value, reason = _value(gpu, each, known)
        if value is not None:
            gpu.row[each.column] = value
        elif reason is not None:
            missing[f"{name}.{each.column}"] = reason
    _derive(gpu, name, missing)
    if len(gpu.workloads) == 1 and not gpu.slices:
        gpu.row.update(zip(_WORKLOAD, next(iter(gpu.workloads)), strict=True))
    elif gpu.slices:
        missing[f"{name}.pod"] = f"the GPU is cut into {len(gpu.slices)} MIG slices: no workload has all of it"
    elif gpu.workloads:
        missing[f"{name}.pod"] = f"{len(gpu.workloads)} workloads share the GPU: no workload has all of it"


def _value(gpu: Gpu, each: Field, known: Units) -> tuple[float | int | None, str | None]:
    values, whole = gpu.board.get(each.number), True
    if not values:
        values, whole = gpu.sliced.get(each.number), False
    if not values:
        return None, None
    if not whole and each.slice:
        return None, "only given per MIG slice, which says nothing of the whole GPU"
    if any(value != values[0] for value in values) and not all(value != value for value in values):
        return None, f"{len(values)} series of this GPU disagree ({min(values):g} to {max(values):g})"
    factor = known.factor.get(each.number, each.factor)
    if factor == 0.0:
        return None, known.warning.get(each.number)
    return reading(each, values[0], factor)


def _derive(gpu: Gpu, name: str, missing: dict[str, str]) -> None:
    row = gpu.row
    if row.get("mem_total_mb") is None and row.get("mem_used_mb") is not None and row.get("mem_free_mb") is not None:
        row["mem_total_mb"] = row["mem_used_mb"] + row["mem_free_mb"] + (row.get("mem_reserved_mb") or 0.0)
    if row.get("power_w") is None and row.get("power_instant_w") is not None:
        row["power_w"] = row["power_instant_w"]
        missing[f"{name}.power_w"] = "warning: no averaged power (field 155); this is the instant one (field 157)"


def _explain(gpus: list[Gpu], missing: dict[str, str]) -> None:
    """A reason for every column that nobody has and that has none yet."""
    names = {f.column: f for f in reversed(FIELDS)}
    for column in COLUMNS:
        lacking = [f"gpus[{g.owner.uuid}].{column}" for g in gpus if g.row.get(column) is None]
        if not lacking:
            continue
        if len(lacking) == len(gpus) and not any(key in missing for key in lacking):
            each = names[column]
            missing.setdefault(f"gpus.{column}", f"the exporter publishes no {each.names[0]} (field {each.number})")
            continue
        for key in lacking:
            missing.setdefault(key, "the exporter publishes it for other GPUs only")


def _columns(gpus: list[Gpu]) -> GpuColumns:
    out: dict[str, Any] = {}
    for column in (*COLUMNS, *_WORKLOAD):
        values = tuple(gpu.row.get(column) for gpu in gpus)
        out[column] = None if all(value is None for value in values) else values
    return GpuColumns(
        uuid=tuple(gpu.owner.uuid for gpu in gpus),
        name=tuple(gpu.owner.model for gpu in gpus) if any(gpu.owner.model for gpu in gpus) else None,
        state=tuple(map(_state, gpus)),
        **out,
    )


def _state(gpu: Gpu) -> GpuState:
    """Lost when its last Xid says so, or when every value that is published of it is blank."""
    known = any(value is not None for column, value in gpu.row.items() if column not in _WORKLOAD)
    return "ok" if known and gpu.row.get("xid") != FALLEN_OFF_THE_BUS else "lost"
