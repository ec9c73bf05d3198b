"""Where the product keeps its files: one data folder, one name per purpose. Paths only; nothing is created here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders below EO_DATA_DIR (default `.eo` in the working directory)."""

    root: Path

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Layout:
        return cls(Path(env.get("EO_DATA_DIR") or ".eo").absolute())

    @property
    def broker(self) -> Path:
        """Kafka's store, its properties file, its log and broker.json (how to reach it, pid)."""
        return self.root / "broker"

    @property
    def archive(self) -> Path:
        """Parquet, hive partitions topic=/date=/hour=."""
        return self.root / "archive"

    @property
    def keys(self) -> Path:
        """actuation.key and operator.key (private, 0600), keyring (public lines)."""
        return self.root / "keys"

    @property
    def spool(self) -> Path:
        """The node agent's spool, one folder per node agent process."""
        return self.root / "spool"

    @property
    def capper(self) -> Path:
        """Save files, high-water marks and the socket of each capper, one folder per node."""
        return self.root / "capper"

    @property
    def fleet(self) -> Path:
        """registers.bin: the simulated devices, which outlive the fleet process as hardware would."""
        return self.root / "fleet"

    @property
    def deliver(self) -> Path:
        """Alerts on their way out: outbox.sqlite, webhooks.json and secrets (0600), silences.json."""
        return self.root / "deliver"

    @property
    def run(self) -> Path:
        """One JSON file per running process: pid, start time, role, metrics address."""
        return self.root / "run"

    @property
    def keyring(self) -> Path:
        return self.keys / "keyring"

    @property
    def actuation_key(self) -> Path:
        return self.keys / "actuation.key"

    @property
    def operator_key(self) -> Path:
        return self.keys / "operator.key"
