"""Records of the Kafka contract, version 1: frozen values, units in names, unknown is null and never zero.

Columnar records hold one list per quantity, all as long as `uuid`; a column that a source cannot give is null as a
whole, a single unknown value is null in its place. Fields may be added (optional, with a default); none may be renamed
or dropped. Everybody imports from here; the modules below only part the topics.
"""

from __future__ import annotations

from streams.contract.records.base import (
    AckStatus,
    Floats,
    GpuState,
    Histogram,
    Int64,
    IntentKind,
    Ints,
    Mode,
    OnExpiry,
    Quality,
    Record,
    Severity,
    Texts,
)
from streams.contract.records.derived import AnomalyVerdict, DeviceColumns, NodeFeatures
from streams.contract.records.power import (
    NO_CAPPER,
    SILENT_CAPPER,
    AckColumns,
    BrakeColumns,
    EnvelopeColumns,
    LatencyTarget,
    LedgerEntry,
    PowerApplied,
    PowerDesired,
)
from streams.contract.records.telemetry import (
    CgroupColumns,
    DomainColumns,
    EngineControl,
    EngineReading,
    GpuColumns,
    HostReading,
    NodeTelemetry,
    SensorColumns,
)
from streams.contract.records.words import Alert, JobState, OperatorIntent

__all__ = [
    "NO_CAPPER",
    "SILENT_CAPPER",
    "AckColumns",
    "AckStatus",
    "Alert",
    "AnomalyVerdict",
    "BrakeColumns",
    "CgroupColumns",
    "DeviceColumns",
    "DomainColumns",
    "EngineControl",
    "EngineReading",
    "EnvelopeColumns",
    "Floats",
    "GpuColumns",
    "GpuState",
    "Histogram",
    "HostReading",
    "Int64",
    "IntentKind",
    "Ints",
    "JobState",
    "LatencyTarget",
    "LedgerEntry",
    "Mode",
    "NodeFeatures",
    "NodeTelemetry",
    "OnExpiry",
    "OperatorIntent",
    "PowerApplied",
    "PowerDesired",
    "Quality",
    "Record",
    "SensorColumns",
    "Severity",
    "Texts",
]
