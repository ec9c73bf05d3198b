"""Settings of the slow step of the actuation job, from the environment (prefix EO_). No default grants anything."""

from __future__ import annotations

from pathlib import Path

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def _also(ours: str, theirs: str) -> AliasChoices:
    return AliasChoices(ours, theirs)


class SlowSettings(BaseSettings):
    """Replicas, rows, the PID on a power target, price and carbon."""

    model_config = SettingsConfigDict(env_prefix="EO_", populate_by_name=True, extra="forbid", frozen=True)

    slow_interval_s: float = Field(
        10.0,
        ge=5.0,
        le=60.0,
        validation_alias=_also("EO_SLOW_INTERVAL_S", "OPTIMIZATION_INTERVAL"),
        description="between two plans of replicas, rows and set points",
    )
    min_warm: int = Field(2, ge=1, le=100_000, description="replicas of a pool that always serve")
    replicas_max: int | None = Field(None, ge=1, le=1_000_000, description="of a pool; none = those ever seen")

    # A PID on a power target: blind to latency, off unless there is a target.
    power_target_w: float | None = Field(
        None, gt=0.0, le=2000.0, validation_alias=_also("EO_POWER_TARGET_W", "GPU_POWER_TARGET"), description="of a GPU"
    )
    pid_kp: float = Field(0.5, ge=0.0, le=100.0, validation_alias=_also("EO_PID_KP", "PID_KP"), allow_inf_nan=False)
    pid_ki: float = Field(0.2, ge=0.0, le=100.0, validation_alias=_also("EO_PID_KI", "PID_KI"), allow_inf_nan=False)
    pid_kd: float = Field(0.0, ge=0.0, le=100.0, validation_alias=_also("EO_PID_KD", "PID_KD"), allow_inf_nan=False)
    power_floor_w: float | None = Field(
        None,
        gt=0.0,
        le=2000.0,
        validation_alias=_also("EO_POWER_FLOOR_W", "GPU_POWER_FLOOR"),
        description="lowest ceiling of a GPU that a row or the PID may choose; none = the device's own",
    )
    power_ceiling_w: float | None = Field(
        None,
        gt=0.0,
        le=2000.0,
        validation_alias=_also("EO_POWER_CEILING_W", "GPU_POWER_CEILING"),
        description="highest; none = the device's default limit",
    )
    batch_min: int = Field(1, ge=1, le=1_000_000, validation_alias=_also("EO_BATCH_MIN", "BATCH_MIN"))
    batch_max: int = Field(
        256,
        ge=1,
        le=1_000_000,
        validation_alias=_also("EO_BATCH_MAX", "BATCH_MAX"),
        description="bounds of the batch (sequences) that is recommended to an engine",
    )

    # Rows whose breaker is protected by the sum of ceilings.
    row_budget_w: float | None = Field(
        None, gt=0.0, le=1e9, allow_inf_nan=False, description="one budget for the GPUs of all nodes; none = no budget"
    )
    rows_file: Path | None = Field(None, description="TOML: rows with budgets, nodes and classes; docs/policy.md")

    # Price and carbon: weights, never a reason to break a bound. Without a file nothing is said about either.
    price_file: Path | None = Field(None, description="CSV timestamp_s,eur_per_kwh (or usd_per_kwh)")
    carbon_file: Path | None = Field(None, description="CSV timestamp_s,g_per_kwh")
    carbon_price_per_kg: float = Field(0.0, ge=0.0, le=100.0, allow_inf_nan=False, description="adds carbon to a price")

    @model_validator(mode="after")
    def _ordered(self) -> SlowSettings:
        """Bounds that contradict each other; raises ValueError with both values."""
        low, high = self.power_floor_w, self.power_ceiling_w
        if low is not None and high is not None and low > high:
            raise ValueError(
                f"GPU_POWER_FLOOR {low:g} W is above GPU_POWER_CEILING {high:g} W; give a floor of at most the ceiling"
            )
        if self.batch_min > self.batch_max:
            raise ValueError(
                f"BATCH_MIN {self.batch_min} is above BATCH_MAX {self.batch_max}; give 1 <= BATCH_MIN <= BATCH_MAX"
            )
        if self.row_budget_w is not None and self.rows_file is not None:
            raise ValueError(
                f"row_budget_w {self.row_budget_w:g} and rows_file {self.rows_file} both name budgets; leave one out"
            )
        return self
