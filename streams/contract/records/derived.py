"""What jobs make of telemetry: features per GPU, and verdicts on them."""

from __future__ import annotations

from typing import Literal

from streams.contract.records.base import Floats, Int64, Ints, Quality, Record, Texts
from streams.contract.records.telemetry import EngineReading


class DeviceColumns(Record, frozen=True, kw_only=True):
    """What each GPU of a node says of its own limits, so that a policy needs no table of GPU models."""

    sm_max_mhz: Ints | None = None
    limit_default_w: Floats | None = None
    limit_min_w: Floats | None = None
    limit_max_w: Floats | None = None


class NodeFeatures(Record, frozen=True, kw_only=True):
    """energy.features.gpu.v1: each registered feature of each GPU of a node at one window end."""

    cluster: str
    node: str
    boot_id: str
    seq: Int64  # of the telemetry record that closed the window
    window_end_ns: Int64  # its ts_ns
    emitted_ns: Int64
    quality: Quality
    uuid: tuple[str, ...]
    features: dict[str, Floats]  # feature name (with unit) -> one value per GPU
    schema: Int64 = 1
    name: Texts | None = None  # device model of each GPU
    engines: tuple[EngineReading, ...] = ()  # passed on unchanged from telemetry
    device: DeviceColumns | None = None  # the same


class AnomalyVerdict(Record, frozen=True, kw_only=True):
    """energy.anomaly.gpu.v1: a score above its threshold, with the evidence. It may freeze or alert, never lower."""

    cluster: str
    node: str
    verdict_id: str  # same evidence, same id: a replay repeats it
    ts_ns: Int64
    gpu_uuid: str
    metric: str
    score: float
    threshold: float
    model: str  # detector, e.g. "robust_z", "half_space_trees", "efficiency_regression"
    model_version: str
    action: Literal["freeze", "alert"]
    quality: Quality
    window_start_ns: Int64
    window_end_ns: Int64
    evidence: dict[str, float | None]
    schema: Int64 = 1
    gpu_name: str | None = None
    workload: str | None = None
    stack: str | None = None
