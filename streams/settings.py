"""Settings of the stream worker, from the environment (prefix EO_). Values only: nothing is opened or asked here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, model_validator
from pydantic_settings import SettingsConfigDict

from streams.contract.layout import Layout
from streams.contract.records import Mode
from streams.slow_settings import SlowSettings

Strategy = Literal["conservative", "balanced", "ml-driven", "aggressive"]


class WorkerSettings(SlowSettings):
    """One worker process. `_s` seconds, `_ms` milliseconds; no default here can cap a cluster (mode is observe)."""

    model_config = SettingsConfigDict(env_prefix="EO_", populate_by_name=True, extra="forbid", frozen=True)

    cluster: str = Field("default", pattern=r"^[A-Za-z0-9._-]{1,80}$", description="name in records and group names")
    bootstrap: str = Field(
        "", validation_alias=AliasChoices("KAFKA_BOOTSTRAP", "EO_BOOTSTRAP"), description="host:port[,host:port]"
    )
    data_dir: Path = Field(default_factory=lambda: Layout.from_env().root, description="see streams.contract.layout")

    # What the actuation job may do.
    mode: Mode = "observe"
    strategy: Strategy = "balanced"
    holdout_ratio: float = Field(0.15, ge=0.1, le=0.9, description="share of GPUs left at default for ever")
    envelope_interval_s: float = Field(5.0, ge=1.0, le=60.0, description="between two envelopes of a node")
    ttl_ms: int = Field(15_000, ge=10_000, le=30_000, description="lifetime of a grant on the node's monotonic clock")

    # Durability.
    archive_flush_s: float = Field(10.0, gt=0.0, description="age at which buffered rows become a Parquet file")
    snapshot_s: float = Field(30.0, ge=1.0, description="least time between two snapshots of one partition")
    commit_interval_s: float = Field(1.0, gt=0.0)
    stall_s: float = Field(60.0, gt=0.0, description="no commit for this long while records wait = exit non-zero")

    # Metrics.
    metrics_host: str = Field("127.0.0.1", description="where /metrics listens; a container needs 0.0.0.0")
    metrics_port: int = Field(0, ge=0, le=65535, description="0 = any free one, named in run/<job>.json")

    # Alerts. No default here sends anything anywhere.
    alert_rules_dir: Path | None = Field(None, description="folder of *.toml rules that override the shipped ones")
    location: str | None = Field(None, min_length=1, description="where the cluster stands; none = no CO2 number")
    carbon_factors: Path | None = Field(None, description="TOML, g CO2e/kWh by location; none = no CO2 number")
    alertmanager_url: str | None = Field(None, pattern=r"^https?://", description="Alertmanager to tell; none = no one")
    webhook_file: Path | None = Field(None, description="receivers of webhooks; default deliver/webhooks.json")

    # Group and fetch.
    session_s: float = Field(10.0, gt=0.0)
    heartbeat_s: float = Field(3.0, gt=0.0)
    rebalance_s: float = Field(6.0, gt=0.0)
    request_s: float = Field(20.0, gt=0.0)
    instance_id: str | None = Field(None, description="static membership: a restart keeps its partitions")
    max_batch: int = Field(500, ge=1, le=10_000, description="most records that a job gets at once")
    fetch_max_wait_ms: int = Field(50, ge=1)
    fetch_min_bytes: int = Field(65_536, ge=1)
    max_unsettled: int = Field(64, ge=1, description="batches whose outputs may be on their way at one time")

    @model_validator(mode="after")
    def _consistent(self) -> WorkerSettings:
        """Orders that the group protocol needs; raises ValueError with both values."""
        if not self.heartbeat_s < self.session_s <= self.request_s:
            raise ValueError(
                f"heartbeat_s {self.heartbeat_s} < session_s {self.session_s} <= request_s {self.request_s} must hold"
            )
        if self.rebalance_s >= self.request_s:
            raise ValueError(f"rebalance_s {self.rebalance_s} must stay below request_s {self.request_s}")
        if self.archive_flush_s > self.stall_s / 2:
            raise ValueError(
                f"archive_flush_s {self.archive_flush_s} must be at most half of stall_s {self.stall_s}, "
                "or a healthy archive would look stalled"
            )
        if self.ttl_ms < 2000 * self.envelope_interval_s:
            raise ValueError(
                f"ttl_ms {self.ttl_ms} must be at least twice envelope_interval_s {self.envelope_interval_s} s, or "
                f"leases would lapse between envelopes; set EO_ENVELOPE_INTERVAL_S to {self.ttl_ms / 2000:g} or less, "
                "or EO_TTL_MS higher (at most 30000)"
            )
        return self

    @property
    def layout(self) -> Layout:
        """The data folder's names."""
        return Layout(self.data_dir.absolute())

    def group(self, job: str) -> str:
        """Consumer group and Faust app id of a job."""
        return f"eo-{self.cluster}-{job}"


def from_env(**overrides: object) -> WorkerSettings:
    """Settings from the environment, with overrides by name; raises pydantic.ValidationError naming each field."""
    return WorkerSettings(**overrides)  # type: ignore[arg-type]  # validated by pydantic itself


def worker_env(settings: WorkerSettings) -> dict[str, str]:
    """This process's environment plus what a child needs to find the same broker and folder."""
    return {
        **os.environ,
        "KAFKA_BOOTSTRAP": settings.bootstrap,
        "EO_DATA_DIR": str(settings.data_dir),
        "EO_CLUSTER": settings.cluster,
    }
