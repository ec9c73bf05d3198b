"""Records of every released version: they must decode for ever. Files are added here and never changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from streams.contract import records as r

FOLDER = Path(__file__).parent
V1 = sorted((FOLDER / "v1").glob("*.json"))
RECORDS: dict[str, type[r.Record]] = {
    "alert": r.Alert,
    "anomaly_verdict": r.AnomalyVerdict,
    "job_state": r.JobState,
    "ledger_entry": r.LedgerEntry,
    "node_features": r.NodeFeatures,
    "node_telemetry": r.NodeTelemetry,
    "operator_intent": r.OperatorIntent,
    "power_applied": r.PowerApplied,
    "power_desired": r.PowerDesired,
}


def record_of(path: Path) -> type[r.Record]:
    """The record type of a golden file: its name begins with it."""
    return RECORDS[max((name for name in RECORDS if path.stem.startswith(name)), key=len)]


def load(path: Path) -> Any:
    return msgspec.json.decode(path.read_bytes())


def released_schemas() -> dict[str, Any]:
    """The schemas as version 1 was released: the floor under every later change."""
    schemas: dict[str, Any] = json.loads((FOLDER / "v1-schemas.json").read_text())
    return schemas


def signing_vectors() -> dict[str, Any]:
    vectors: dict[str, Any] = json.loads((FOLDER / "v1-signing.json").read_text())
    return vectors
