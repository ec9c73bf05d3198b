"""Shapes of requests and answers, for checking what comes in and for the OpenAPI document of what goes out.

Units stand in the names. A null number is unknown, never zero; every row and total says its quality.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from agents.gateway.keys import Role
from streams.contract.records import Mode, Severity

Kind = Literal["measured", "estimated", "simulated"]
Mixed = Literal["measured", "estimated", "simulated", "mixed"]
StrategyName = Literal["conservative", "balanced", "ml-driven", "aggressive"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Number = float | None
HOURS_MAX = 8760.0


class Shape(BaseModel):
    """Base of every shape: what is not named here is refused on the way in, and NaN and infinities too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Dependency(Shape):
    ok: bool
    age_s: Number = Field(description="age of its last sample; null = none yet")
    problem: str | None


class JobState(Shape):
    live: bool | None = Field(description="whether a worker is in its group; null = the broker did not say")
    ready: bool | None = Field(description="whether its commits move or nothing waits; null = unknown")
    age_s: Number = Field(description="since its last commit, its last progress; null = unknown")
    lag_records: int | None = Field(description="records that wait for it")
    problem: str | None


class Health(Shape):
    live: bool
    ready: bool = Field(description="whether questions about now can be answered and every watched job gets on")
    not_ready: list[str] = Field(description="what stands against ready, by name")
    cluster: str
    uptime_s: float
    dependencies: dict[str, Dependency]
    jobs: dict[str, JobState]


class Live(Shape):
    live: Literal[True]


class NodeRow(Shape):
    node: str
    gpus: int
    power_w: Number = Field(description="sum over its GPUs of known power")
    gpus_power_unknown: int
    mode: Mode
    strategy: str
    reason: str
    lease_left_s: Number
    last_event: str
    last_status: str
    capped: int
    gpus_controlled: int
    gpus_holdout: int
    gpus_default: int
    age_s: float
    stale: bool = Field(description="silent for too long: its numbers are null")
    quality: Kind


class GpuRow(Shape):
    uuid: str
    node: str
    name: str | None
    group: Literal["controlled", "hold-out", "default"]
    namespace: str | None = Field(description="Kubernetes namespace that holds it; null = none, or not told")
    pod: str | None
    engine: str | None
    stack: str | None
    workload: str | None
    power_w: Number
    limit_w: Number
    lock_mhz: int | None
    previous_limit_w: Number
    capped: bool
    age_s: float
    stale: bool
    quality: Kind
    power_w_mean_60s: Number
    util_ratio_mean_60s: Number
    sm_mhz_mean_60s: Number
    throttle_ratio_60s: Number
    waste_w: Number


class Page(Shape):
    cluster: str
    ts_ns: int
    next: str | None = Field(description="pass it as `after` for the rows that follow; null = the last page")


class Nodes(Page):
    items: list[NodeRow]


class Gpus(Page):
    items: list[GpuRow]


class Power(Shape):
    gpus: int
    gpus_power_unknown: int
    power_w: Number
    power_w_per_gpu: Number
    quality: Mixed | None
    shares: dict[str, float] = Field(description="shares of measured, estimated and simulated GPUs in the sum")


class GroupPower(Power):
    tbt_p99_ms: Number
    ttft_p99_ms: Number
    e2e_p99_ms: Number


class Totals(Power):
    groups: dict[str, GroupPower]
    capped: int
    loop_ms_p50: Number
    loop_ms_p99: Number


class Energy(Shape):
    cluster: str
    ts_ns: int
    now: Totals
    by: Literal["engine", "stack", "node"]
    hours: float
    history: list[dict[str, Any]] = Field(description="from the archive; columns as in docs/sql.md")
    notes: list[str]


class Rows(Shape):
    cluster: str
    ts_ns: int
    source: Literal["live", "archive"]
    items: list[dict[str, Any]]
    more: bool = Field(description="whether rows were left out by `limit`")
    notes: list[str]


class AlertRows(Rows):
    severity: Severity | None


class FeatureValue(Shape):
    gpu_uuid: str
    feature: str
    value: Number
    unit: str
    state: Literal["fresh", "expired", "unknown"]
    ttl_s: float
    age_s: Number
    window_end_ns: int | None
    quality: Kind | None


class Features(Shape):
    cluster: str
    entity: str
    node: str | None
    values: list[FeatureValue]


class Constraints(Shape):
    max_power_cap: (
        Annotated[float, Field(gt=0, le=2000, description="W, of one GPU; 2000 is above any board")] | None
    ) = None
    min_replicas: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class OptimizeRequest(Shape):
    namespace: Name | None = Field(None, description="the cluster, or a Kubernetes namespace; null = the cluster")
    strategy: StrategyName = "balanced"
    constraints: Constraints = Constraints()
    apply: bool = Field(False, description="send the recommended caps; needs role operate and an Idempotency-Key")
    duration_s: int = Field(3600, ge=10, le=30 * 86400, description="with apply: when the caps end by themselves")
    reason: Annotated[str, StringConstraints(max_length=200)] = Field("", description="with apply: for `eo explain`")


class Group(Shape):
    stack: str | None
    workload: str | None
    device: str | None


class P99(Shape):
    tbt: Number
    ttft: Number
    e2e: Number


class MadeFrom(Shape):
    quality: Mixed | None
    shares: dict[str, float]


class GroupAdvice(Shape):
    group: Group
    gpus: int
    holdout_gpus: int
    replicas: int
    feasible: bool
    min_sm_mhz: int | None
    max_sm_mhz: int | None
    power_cap_w: Number
    current_w_per_gpu: Number
    baseline_w_per_gpu: Number
    expected_w_per_gpu: Number
    expected_change_ratio: Number
    expected_sm_mhz: Number
    expected_p99_ms: P99
    bound_ms: P99
    confidence: Literal["none", "low", "medium", "high"]
    confidence_reason: str
    reason: str
    quality: Literal["estimated"]
    made_from: MadeFrom


class AdviceTotals(Shape):
    baseline_w: Number
    expected_w: Number
    gpus_counted: int
    gpus_unknown: int
    quality: Literal["estimated"]


class Applied(Shape):
    state: Literal["not_asked", "sent", "nothing_to_apply"]
    caps: int
    expires_ns: int | None
    intent_ids: list[str]
    reason: str


class Recommendations(Shape):
    cluster: str
    namespace: str
    strategy: StrategyName
    ts_ns: int
    groups: list[GroupAdvice]
    total: AdviceTotals
    applied: Applied


class ForecastRequest(Shape):
    metric: Name = Field(description="power_w, tokens_per_s, requests_per_s or util_ratio")
    horizon_hours: float = Field(gt=0, le=168, description="how far ahead")
    namespace: Name | None = Field(None, description="the cluster, or a Kubernetes namespace; null = the cluster")


class ForecastPoint(Shape):
    ts_ns: int
    mean: float
    quantiles: dict[str, float]


class Backtest(Shape):
    model: str
    mae: Number
    pinball: Number
    mase: Number = Field(description="mean absolute error over that of the seasonal naive in the same windows")
    coverage: Number = Field(description="share of held-out values inside the 10-90 % interval")
    windows: int
    failed: str | None


class Forecast(Shape):
    cluster: str
    namespace: str
    metric: str
    unit: str
    step_s: float
    history_hours: float
    missing_ratio: float
    model: str
    season_s: float
    points: list[ForecastPoint]
    backtest: list[Backtest]
    quality: Literal["estimated"]
    made_from: MadeFrom
    notes: list[str] = Field(description="a demo without enough history says here that its past is made up")


class KeyRow(Shape):
    id: str
    name: str
    role: Role
    created_ns: int
    expires_ns: int | None
    state: Literal["live", "expired", "revoked"]


class Keys(Shape):
    items: list[KeyRow]
