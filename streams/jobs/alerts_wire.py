"""The alerts job's own view of its busy topics: only the fields that rules use are decoded, 100 nodes a second are
cheap. What does not keep the contract in these fields is refused with the contract's own error.
"""

from __future__ import annotations

from typing import Final

import msgspec

from models.alerts import measure
from streams.contract.codec import SCHEMA_VERSION
from streams.contract.errors import ContractError, SchemaTooNew
from streams.contract.records import EngineReading, Int64, Quality

Column = list[float | None] | None


class FeatureColumns(msgspec.Struct):
    """The features that rules use."""

    power_w_mean_60s: Column = None
    energy_j_delta: Column = None
    waste_w: Column = None
    j_per_token_60s: Column = None


class DeviceUsed(msgspec.Struct):
    """Of the devices: what they may draw."""

    limit_default_w: Column = None


class FeaturesUsed(msgspec.Struct):
    """NodeFeatures as far as it is used here."""

    cluster: str
    node: str
    boot_id: str
    seq: Int64
    window_end_ns: Int64
    quality: Quality
    uuid: list[str]
    features: FeatureColumns
    schema: int = 1
    engines: tuple[EngineReading, ...] = ()
    device: DeviceUsed | None = None

    def view(self) -> measure.Node:
        """The same as the rules see it."""
        columns = {name: column for name in FEATURE_NAMES if (column := getattr(self.features, name)) is not None}
        return measure.Node(
            node=self.node,
            ts_ns=self.window_end_ns,
            quality=self.quality,
            uuid=self.uuid,
            features=columns,
            limit_default_w=None if self.device is None else self.device.limit_default_w,
            engines=[measure.Engine(e.engine, e.stack, e.workload, e.gpu_uuid) for e in self.engines],
        )


class GpuUsed(msgspec.Struct):
    """Of the GPUs: their own word on power."""

    uuid: list[str]
    power_w: Column = None


class DomainsUsed(msgspec.Struct):
    """Of the power domains: those that measure a GPU a second time."""

    name: list[str]
    kind: list[str]
    power_w: Column = None
    gpu_uuid: list[str | None] | None = None


class TelemetryUsed(msgspec.Struct):
    """NodeTelemetry as far as it is used here."""

    cluster: str
    node: str
    ts_ns: Int64
    quality: Quality
    boot_id: str = ""
    schema: int = 1
    gpu: GpuUsed | None = None
    domains: DomainsUsed | None = None

    def gpu_w(self) -> dict[str, float]:
        """Watts by GPU, as the device says."""
        return {} if self.gpu is None else _known(self.gpu.uuid, self.gpu.power_w)

    def second_w(self) -> dict[str, float]:
        """Watts by GPU, as a second sensor says; empty without one."""
        found = self.domains
        if found is None or found.gpu_uuid is None or found.power_w is None:
            return {}
        rows = zip(found.gpu_uuid, found.kind, found.power_w, strict=True)
        return {uuid: watts for uuid, kind, watts in rows if kind == "gpu" and uuid is not None and watts is not None}


FEATURE_NAMES: Final = FeatureColumns.__struct_fields__
_telemetry = msgspec.json.Decoder(TelemetryUsed)
_features = msgspec.json.Decoder(FeaturesUsed)
_BROKEN: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, OverflowError)


def _known(uuids: list[str], column: Column) -> dict[str, float]:
    return {} if column is None else {u: w for u, w in zip(uuids, column, strict=True) if w is not None}


def telemetry(payload: bytes | None) -> TelemetryUsed:
    """One telemetry message; raises ContractError."""
    if payload is None:
        raise ContractError("NodeTelemetry: the value is empty (a tombstone where a record was expected)")
    try:
        value = _telemetry.decode(payload)
    except _BROKEN as error:
        raise ContractError(f"NodeTelemetry: {type(error).__name__}: {error}") from error
    _check_schema("NodeTelemetry", value.schema)
    if value.gpu is not None:
        _same("NodeTelemetry", len(value.gpu.uuid), power_w=value.gpu.power_w)
    if (domains := value.domains) is not None:
        columns = {"kind": domains.kind, "power_w": domains.power_w, "gpu_uuid": domains.gpu_uuid}
        _same("DomainColumns", len(domains.name), **columns)
    return value


def features(payload: bytes | None) -> FeaturesUsed:
    """One features message; raises ContractError."""
    if payload is None:
        raise ContractError("NodeFeatures: the value is empty (a tombstone where a record was expected)")
    try:
        value = _features.decode(payload)
    except _BROKEN as error:
        raise ContractError(f"NodeFeatures: {type(error).__name__}: {error}") from error
    _check_schema("NodeFeatures", value.schema)
    columns = {name: getattr(value.features, name) for name in FEATURE_NAMES}
    device = {} if value.device is None else {"limit_default_w": value.device.limit_default_w}
    _same("NodeFeatures", len(value.uuid), **columns, **device)
    return value


def _check_schema(owner: str, schema: int) -> None:
    if schema != SCHEMA_VERSION:
        raise SchemaTooNew(f"{owner}: schema {schema} is not {SCHEMA_VERSION}; read it with a later release")


def _same(owner: str, size: int, **columns: list[float | None] | list[str] | list[str | None] | None) -> None:
    for name, column in columns.items():
        if column is not None and len(column) != size:
            raise ContractError(f"{owner}: column {name} has {len(column)} values for {size} rows")
