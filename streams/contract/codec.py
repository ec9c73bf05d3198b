"""Bytes to records and back. Whatever does not decode raises ContractError with a reason that fits a DLQ header."""

from __future__ import annotations

import time
import uuid
from functools import cache
from typing import Final, TypeVar

import msgspec

from streams.contract import records as r
from streams.contract.errors import ContractError, SchemaTooNew
from streams.contract.topics import BY_NAME, Topic, topic_of

SCHEMA_VERSION: Final = 1
CONTENT_TYPE: Final = "application/json"
Headers = list[tuple[str, bytes]]
T = TypeVar("T", bound=r.Record)

_encoder = msgspec.json.Encoder()


@cache
def decoder(record: type[T]) -> msgspec.json.Decoder[T]:
    """The typed decoder of a record, built once."""
    return msgspec.json.Decoder(record)


def encode(record: r.Record) -> bytes:
    """A record as JSON. NaN and infinities become null: unknown is null, never a number."""
    return _encoder.encode(record)


def decode(record: type[T], payload: bytes | None) -> T:
    """A record from JSON; unknown fields are ignored, unequal columns and a newer major version are refused.

    Raises:
        ContractError: not JSON, wrong types, missing fields, columns of unequal length.
        SchemaTooNew: written by a later major version.
    """
    if payload is None:
        raise ContractError(f"{record.__name__}: the value is empty (a tombstone where a record was expected)")
    try:
        value: T = decoder(record).decode(payload)
    except (msgspec.MsgspecError, RecursionError, OverflowError, UnicodeDecodeError) as error:
        raise ContractError(f"{record.__name__}: {type(error).__name__}: {error}") from error
    schema = getattr(value, "schema", SCHEMA_VERSION)
    if schema != SCHEMA_VERSION:
        raise SchemaTooNew(f"{record.__name__}: schema {schema} is not {SCHEMA_VERSION}; read it with a later release")
    check_columns(value)
    return value


def check_columns(value: r.Record) -> None:
    """Every column of a columnar record is as long as its `uuid`; raises ContractError with both lengths."""
    owner = type(value).__name__
    for part in (value, getattr(value, "gpu", None)):
        keys = getattr(part, "uuid", None)
        if keys is None or not isinstance(part, msgspec.Struct):
            continue
        if len(set(keys)) != len(keys):
            raise ContractError(f"{owner}: a GPU is named twice in uuid")
        for name, column in _columns(part):
            if column is not None and len(column) != len(keys):
                raise ContractError(f"{owner}: column {name} has {len(column)} values for {len(keys)} GPUs")
    if isinstance(value, r.NodeTelemetry | r.NodeFeatures):
        _check_parts(value)
    if isinstance(value, r.PowerDesired) and value.brake is not None:
        _check_brake(value.brake, len(value.gpu.uuid))


def _check_brake(brake: r.BrakeColumns, gpus: int) -> None:
    if len(brake.max_power_w) != len(brake.from_ratio) or any(len(step) != gpus for step in brake.max_power_w):
        raise ContractError(
            f"PowerDesired: brake has {len(brake.from_ratio)} shares and {len(brake.max_power_w)} steps for {gpus} GPUs"
        )


def _check_parts(value: r.NodeTelemetry | r.NodeFeatures) -> None:
    owner = type(value).__name__
    for engine in value.engines:
        for name in ("ttft", "tbt", "e2e"):
            histogram: r.Histogram | None = getattr(engine, name)
            if histogram is not None and len(histogram.index) != len(histogram.count):
                sizes = f"{len(histogram.index)} indices and {len(histogram.count)} counts"
                raise ContractError(f"{owner}: histogram {name} of engine {engine.engine!r} has {sizes}")
    if not isinstance(value, r.NodeTelemetry):
        return
    for part in (value.domains, value.sensors):
        if part is not None:
            _check_named(part)
    host = value.host
    if host is not None and host.cgroup is not None and len(host.cgroup.path) != len(host.cgroup.cpu_us):
        sizes = f"{len(host.cgroup.path)} paths and {len(host.cgroup.cpu_us)} values"
        raise ContractError(f"{owner}: host.cgroup has {sizes}")


def _check_named(part: r.DomainColumns | r.SensorColumns) -> None:
    owner = type(part).__name__
    if len(set(part.name)) != len(part.name):
        raise ContractError(f"{owner}: a name stands twice in name")
    for name in part.__struct_fields__:
        column = getattr(part, name)
        if column is not None and len(column) != len(part.name):
            raise ContractError(f"{owner}: column {name} has {len(column)} values for {len(part.name)} names")


def _columns(part: msgspec.Struct) -> list[tuple[str, tuple[object, ...] | None]]:
    if isinstance(part, r.NodeFeatures):
        device = [] if part.device is None else [(name, getattr(part.device, name)) for name in _DEVICE]
        return [("name", part.name), *part.features.items(), *device]
    return [(name, getattr(part, name)) for name in _column_names(type(part))]


_DEVICE: Final = r.DeviceColumns.__struct_fields__


@cache
def _column_names(part: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(name for name in part.__struct_fields__ if name != "uuid")


def headers(record: r.Record, *, source: str, traceparent: str | None = None, event_id: str | None = None) -> Headers:
    """Kafka headers of a record: content type and schema always, CloudEvents (binary mode) on low-rate topics."""
    topic = topic_of(type(record))
    out: Headers = [("content-type", CONTENT_TYPE.encode()), ("schema", str(SCHEMA_VERSION).encode())]
    if topic.cloud_events:
        out += [
            ("ce_specversion", b"1.0"),
            ("ce_id", (event_id or uuid.uuid4().hex).encode()),
            ("ce_type", topic.name.encode()),
            ("ce_source", f"/energy/{source}".encode()),
            ("ce_time", _rfc3339(_event_ns(record)).encode()),
        ]
    if traceparent is not None:
        out.append(("traceparent", traceparent.encode()))
    return out


def _event_ns(record: r.Record) -> int:
    """When the thing happened that the record tells, in the record's own time."""
    for name in ("ts_ns", "closed_ns", "issued_at_ns"):
        if (stamp := getattr(record, name, None)) is not None:
            return int(stamp)
    return time.time_ns()


def _rfc3339(ns: int) -> str:
    seconds, rest_ns = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest_ns // 1000:06d}Z"


def record_type(topic: str) -> type[r.Record]:
    """The record type of a topic name; raises ContractError for a name outside the contract and for the DLQ."""
    entry: Topic | None = BY_NAME.get(topic)
    if entry is None or entry.record is None:
        raise ContractError(f"topic {topic!r} carries no record of the contract; see `eo topics plan`")
    return entry.record
