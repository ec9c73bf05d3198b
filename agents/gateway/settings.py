"""Settings of the Energy API, from the environment (prefix EO_GATEWAY_). Values only: nothing is opened here."""

from __future__ import annotations

import ipaddress
from pathlib import Path

from pydantic import AliasChoices, Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from agents.cli.lag import INPUTS
from agents.gateway.problems import nearest
from streams.contract.layout import Layout


class GatewaySettings(BaseSettings):
    """One gateway process. `_s` seconds, `_bytes` bytes; by default it listens on loopback and wants a key."""

    model_config = SettingsConfigDict(env_prefix="EO_GATEWAY_", populate_by_name=True, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8787, ge=0, le=65535, description="port; 0 takes a free one")
    open_demo: bool = Field(False, description="loopback callers need no key; only with a demo's data folder")
    rate_per_s: float = Field(400.0, gt=0, le=1e6, description="requests a second of one key or one address")
    write_rate_per_s: float = Field(5.0, gt=0, le=1e6, description="of these, POST and DELETE")
    body_max_bytes: int = Field(65_536, ge=1024, le=16_777_216, description="longest request body")
    stream_clients: int = Field(64, ge=1, le=10_000, description="clients of /v1/stream at one time")
    archive_timeout_s: float = Field(10.0, gt=0, le=600, description="longest time of one question to the archive")
    tls_cert: Path | None = Field(None, description="PEM file with the certificate and its chain: serve https")
    tls_key: Path | None = Field(None, description="PEM file with its key")
    archive_dir: Path | None = Field(None, description="archive to answer from; none = the data folder's")
    sample_history: bool = Field(
        False, description="a demo's forecasts without enough history use a made-up archive, and say so"
    )
    stale_s: float = Field(30.0, gt=0, description="a node that is silent for longer has no current numbers")
    jobs: str = Field(
        ",".join(INPUTS), description="stream jobs that must run for /health to be ready, with commas; empty = none"
    )
    history_s: float = Field(60.0, ge=0, le=3600, description="how far back the topics are read at the start")
    metrics_host: str = Field(
        "127.0.0.1",
        validation_alias=AliasChoices("EO_METRICS_HOST", "metrics_host"),
        description="where /metrics listens without a key; a container needs 0.0.0.0",
    )
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        validation_alias=AliasChoices("EO_METRICS_PORT", "metrics_port"),
        description="0 = any free one, named in run/gateway.json",
    )
    cluster: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._-]{1,80}$",
        validation_alias=AliasChoices("EO_CLUSTER", "cluster"),
        description="cluster that this gateway answers for",
    )
    bootstrap: str = Field("", validation_alias=AliasChoices("KAFKA_BOOTSTRAP", "EO_BOOTSTRAP", "bootstrap"))
    data_dir: Path = Field(
        default_factory=lambda: Layout.from_env().root, validation_alias=AliasChoices("EO_DATA_DIR", "data_dir")
    )

    @field_validator("jobs")
    @classmethod
    def _known_jobs(cls, text: str) -> str:
        """Raises ValueError with the nearest name for an unknown job."""
        names = [name.strip() for name in text.split(",") if name.strip()]
        for name in names:
            if name not in INPUTS:
                raise ValueError(f"{name!r} is not a job; {nearest(name, INPUTS)}")
        return ",".join(names)

    @property
    def job_names(self) -> tuple[str, ...]:
        """The jobs that are watched."""
        return tuple(name for name in self.jobs.split(",") if name)

    @property
    def layout(self) -> Layout:
        """The data folder's names."""
        return Layout(self.data_dir.absolute())


def is_loopback(host: str) -> bool:
    """Whether an address (or "localhost") can be reached from this machine only."""
    name = host.strip("[]").partition("%")[0]
    if name == "localhost":
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)
