"""Where a BMC keeps its power limits, what they say, and how to write them: three forms of the standard in one shape.

A limit without a value or without bounds is no target: what cannot be put back must not be set.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from agents.capper.actuators.base import Bounds
from agents.capper.actuators.errors import ActuatorError, NotPermitted, NotSupported
from agents.capper.actuators.redfish_http import ROOT, BmcClient, Json, link, members

Form = Literal["metrics", "control", "old"]
HARD: Final = "hardpoweroff"


@dataclass(frozen=True, slots=True)
class Target:
    """One limit: the GPU's UUID or "bmc:ADDRESS", where it is, and in which form."""

    key: str
    uri: str
    form: Form


@dataclass(frozen=True, slots=True)
class Seen:
    """What a target's document says: the limit in force, its bounds, the power drawn."""

    limit_w: float | None
    bounds: Bounds | None
    measured_w: float | None
    disabled: bool = False


def find(client: BmcClient, which: str) -> list[Target]:
    """The targets of a BMC: "gpu" or "node". Raises ActuatorError when the BMC cannot be asked."""
    root = client.get(ROOT).body
    made = _gpus(client, root) if which == "gpu" else _node(client, root)
    return [target for target in made if _usable(client, target)]


def power_resources(client: BmcClient) -> list[str]:
    """Every old Power resource: there the action above a limit is stated. Raises ActuatorError."""
    found = []
    for chassis in members(client, link(client.get(ROOT).body, "Chassis")):
        try:
            uri = link(client.get(chassis).body, "Power")
        except NotSupported:
            continue
        found += [uri] if uri else []
    return found


def hard_power_off(client: BmcClient, resources: list[str]) -> str | None:
    """The Power resource whose action above its limit is to cut the power, None = there is none."""
    for uri in resources:
        try:
            doc = client.get(uri).body
        except NotSupported:
            continue
        for control in _objects(doc.get("PowerControl")):
            if str(_table(control.get("PowerLimit")).get("LimitException", "")).lower() == HARD:
                return uri
    return None


def _gpus(client: BmcClient, root: Json) -> list[Target]:
    made = []
    for system in members(client, link(root, "Systems")):
        for uri in _members_or_none(client, system, "Processors"):
            doc = client.get(uri).body
            metrics = link(doc, "EnvironmentMetrics")
            if str(doc.get("ProcessorType", "")).lower() == "gpu" and metrics:
                made.append(Target(_uuid(doc) or f"bmc:{metrics}", metrics, "metrics"))
    return made


def _members_or_none(client: BmcClient, owner: str, name: str) -> list[str]:
    try:
        return members(client, link(client.get(owner).body, name))
    except NotSupported:
        return []


def _uuid(doc: Json) -> str:
    """NVML's spelling for NVIDIA, so that command and telemetry name the same GPU."""
    uuid = str(doc.get("UUID") or "").strip()
    nvidia = "nvidia" in str(doc.get("Manufacturer") or "").lower()
    return f"GPU-{uuid.lower()}" if uuid and nvidia and not uuid.upper().startswith("GPU-") else uuid


def _node(client: BmcClient, root: Json) -> list[Target]:
    """The first usable limit of a chassis, in the order of the standard's own preference."""
    for chassis in members(client, link(root, "Chassis")):
        try:
            doc = client.get(chassis).body
        except NotSupported:
            continue
        forms: list[tuple[str | None, Form]] = [(link(doc, "EnvironmentMetrics"), "metrics")]
        forms += [(uri, "control") for uri in _members_or_none(client, chassis, "Controls")]
        forms.append((link(doc, "Power"), "old"))
        for uri, form in forms:
            if uri is not None and _usable(client, target := Target(f"bmc:{uri}", uri, form)):
                return [target]
    return []


def _usable(client: BmcClient, target: Target) -> bool:
    try:
        doc = client.get(target.uri).body
    except NotPermitted:
        raise
    except ActuatorError:
        return False
    if target.form == "control" and str(doc.get("ControlType", "Power")).lower() != "power":
        return False
    seen = look(doc, target.form)
    return seen.limit_w is not None and seen.bounds is not None and not seen.disabled


def look(doc: Json, form: Form) -> Seen:
    """What the document says of its limit."""
    if form == "old":
        control = next(iter(_objects(doc.get("PowerControl"))), {})
        limit = _table(control.get("PowerLimit"))
        low, high = _number(limit.get("AllowableMin")), _number(control.get("PowerCapacityWatts"))
        value, measured = _number(limit.get("LimitInWatts")), _number(control.get("PowerConsumedWatts"))
        return Seen(value, _bounds(low or 0.0, high, value), measured)
    limit = doc if form == "control" else _table(doc.get("PowerLimitWatts"))
    value, low, high = (_number(limit.get(name)) for name in ("SetPoint", "AllowableMin", "AllowableMax"))
    measured = _number(_table(doc.get("Sensor" if form == "control" else "PowerWatts")).get("Reading"))
    default = _number(limit.get("DefaultSetPoint"))
    disabled = str(limit.get("ControlMode", "")).lower() == "disabled"
    return Seen(value, _bounds(low, high, default if default is not None else high), measured, disabled)


def _bounds(low: float | None, high: float | None, default: float | None) -> Bounds | None:
    if low is None or high is None or not 0 <= low < high:
        return None
    return Bounds(low, high, high if default is None else default)


def change(form: Form, watts: float) -> Json:
    """The PATCH that sets a limit. It never speaks of the exception action."""
    value = int(watts) if float(watts).is_integer() else watts
    if form == "metrics":
        return {"PowerLimitWatts": {"SetPoint": value}}
    return {"SetPoint": value} if form == "control" else {"PowerControl": [{"PowerLimit": {"LimitInWatts": value}}]}


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        made = float(value)
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _table(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
