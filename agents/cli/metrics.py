"""`eo metrics`: where the processes of this data folder serve their metrics, in the shape that Prometheus reads."""

from __future__ import annotations

import argparse
import json
from typing import Any

from agents.cli.base import DONE, FAILED, EoError, emit, table
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: eo metrics targets --json"
    parser.add_argument("what", choices=("targets",), help="targets: every process that serves /metrics")


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    found = targets(layout)
    if not found:
        raise EoError(
            f"no process with metrics has a run file in {layout.run}; start one (`eo agent`, `eo worker`, `eo demo`) "
            "or set EO_DATA_DIR to its folder",
            FAILED,
        )
    emit(args, found, lambda: text(found, layout))
    return DONE


def targets(layout: Layout) -> list[dict[str, Any]]:
    """The entries of run/targets/*.json, which Prometheus reads itself; unreadable ones are left out."""
    from streams.run_note import TARGETS

    found: list[dict[str, Any]] = []
    for path in sorted((layout.run / TARGETS).glob("*.json")):
        try:
            entries = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # being replaced or taken away at this moment
        found += [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return found


def text(found: list[dict[str, Any]], layout: Layout) -> str:
    rows = [(entry["labels"].get("eo_role", "-"), ", ".join(entry["targets"])) for entry in found]
    return table(rows, ("role", "address")) + f"\nfile_sd_configs: {layout.run}/targets/*.json"
