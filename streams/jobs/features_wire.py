"""The features job's own view of its records: telemetry with the used columns only, features ready to be sent.

Decoding 7 of 20 columns costs half of decoding all. Engines are passed on as the bytes that came; their readers check
what they read of them, as this job does with the two fields that it needs.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Annotated, Final

import msgspec

from models.features.registry import FEATURES
from streams.contract.codec import CONTENT_TYPE, SCHEMA_VERSION
from streams.contract.errors import ContractError, SchemaTooNew
from streams.contract.records import DeviceColumns, Floats, Int64, Ints, Quality, Texts

Column = list[float | None] | None
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
HEADERS: Final = [("content-type", CONTENT_TYPE.encode()), ("schema", str(SCHEMA_VERSION).encode())]
NO_ENGINES: Final = msgspec.Raw(b"[]")


class GpuUsed(msgspec.Struct):
    """The columns that features ask for, and those that are passed on."""

    uuid: list[str]
    name: Texts | None = None
    power_w: Column = None
    energy_mj: Column = None
    sm_mhz: Column = None
    util_ratio: Column = None
    temp_c: Column = None
    throttle: Column = None
    sm_max_mhz: Ints | None = None
    limit_default_w: Floats | None = None
    limit_min_w: Floats | None = None
    limit_max_w: Floats | None = None

    def columns(self) -> tuple[Column, ...]:
        """The numeric columns in the order of GPU_COLUMNS."""
        return (self.power_w, self.energy_mj, self.sm_mhz, self.util_ratio, self.temp_c, self.throttle)

    def device(self) -> DeviceColumns:
        """What the GPUs say of their own limits."""
        return DeviceColumns(
            sm_max_mhz=self.sm_max_mhz,
            limit_default_w=self.limit_default_w,
            limit_min_w=self.limit_min_w,
            limit_max_w=self.limit_max_w,
        )


class EngineUsed(msgspec.Struct):
    """Of an engine: whose tokens it counts."""

    gpu_uuid: list[str]
    generation_tokens_total: float | None = None


class TelemetryUsed(msgspec.Struct):
    """NodeTelemetry as far as it is used here."""

    cluster: str
    node: str
    boot_id: str
    seq: Seq
    ts_ns: Int64
    quality: Quality
    schema: int = 1
    gpu: GpuUsed | None = None
    engines: msgspec.Raw = NO_ENGINES


FeatureColumns = msgspec.defstruct("FeatureColumns", [(feature.name, list[float]) for feature in FEATURES])


class FeaturesOut(msgspec.Struct):
    """NodeFeatures as it is written, field for field; `features` is a FeatureColumns, engines are bytes."""

    cluster: str
    node: str
    boot_id: str
    seq: int
    window_end_ns: int
    emitted_ns: int
    quality: Quality
    uuid: list[str]
    features: msgspec.Struct
    schema: int = 1
    name: Texts | None = None
    engines: msgspec.Raw = NO_ENGINES
    device: DeviceColumns | None = None


GPU_COLUMNS: Final = ("power_w", "energy_mj", "sm_mhz", "util_ratio", "temp_c", "throttle")
_CHECKED: Final = tuple(name for name in GpuUsed.__struct_fields__ if name != "uuid")
_checked = attrgetter(*_CHECKED)
_telemetry = msgspec.json.Decoder(TelemetryUsed)
_engines = msgspec.json.Decoder(list[EngineUsed])
encode: Final = msgspec.json.Encoder().encode


def decode(payload: bytes | None) -> TelemetryUsed:
    """One telemetry message.

    Raises:
        ContractError: the same reasons as streams.contract.codec.decode, for the columns that are read.
    """
    if payload is None:
        raise ContractError("NodeTelemetry: the value is empty (a tombstone where a record was expected)")
    try:
        value = _telemetry.decode(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ContractError(f"NodeTelemetry: {type(error).__name__}: {error}") from error
    if value.schema != SCHEMA_VERSION:
        raise SchemaTooNew(
            f"NodeTelemetry: schema {value.schema} is not {SCHEMA_VERSION}; read it with a later release"
        )
    if value.gpu is not None:
        _check(value.gpu)
    return value


def _check(gpu: GpuUsed) -> None:
    size = len(gpu.uuid)
    if len(set(gpu.uuid)) != size:
        raise ContractError("NodeTelemetry: a GPU is named twice in uuid")
    for name, column in zip(_CHECKED, _checked(gpu), strict=True):
        if column is not None and len(column) != size:
            raise ContractError(f"NodeTelemetry: column {name} has {len(column)} values for {size} GPUs")


def uuids(value: TelemetryUsed) -> list[str]:
    """The GPUs of a message; empty for a node without any."""
    return value.gpu.uuid if value.gpu is not None else []


def tokens(value: TelemetryUsed) -> dict[str, float] | None:
    """Each GPU's share of the tokens that its engine has generated since it started; None when no engine reports.

    Raises:
        ContractError: the engines do not keep the contract.
    """
    if len(value.engines) <= len(NO_ENGINES):
        return None
    try:
        engines = _engines.decode(value.engines)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ContractError(f"NodeTelemetry: engines: {type(error).__name__}: {error}") from error
    shares: dict[str, float] = {}
    for engine in engines:
        if engine.generation_tokens_total is not None and engine.gpu_uuid:
            share = engine.generation_tokens_total / len(engine.gpu_uuid)
            shares.update(dict.fromkeys(engine.gpu_uuid, share))
    return shares
