"""`eo info`: versions, paths and what runs here. Reads files of the data folder, asks no broker."""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from agents.cli import brokers
from agents.cli.base import DONE, emit, table
from agents.cli.brokers.processes import start_mark
from streams.contract.layout import Layout

PACKAGES: Final = (
    "energy-orchestrator",
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "msgspec",
    "pynacl",
    "nvidia-ml-py",
    "numpy",
    "pyarrow",
    "duckdb",
    "river",
)
PATHS: Final = ("root", "broker", "archive", "keys", "spool", "capper", "fleet", "run")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  eo info\n  eo info --json"


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    value = gather(layout)
    emit(args, value, lambda: _text(value))
    return DONE


def gather(layout: Layout) -> dict[str, object]:
    """Everything that the verb prints, as plain values."""
    broker = brokers.status(layout)
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "paths": {name: str(getattr(layout, name)) for name in PATHS},
        "broker": None if broker is None else dataclasses.asdict(broker),
        "processes": _processes(layout),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processes(layout: Layout) -> list[dict[str, object]]:
    """What the run folder names, with whether that pid lives; a file that is not JSON names nothing."""
    found = []
    for path in sorted(layout.run.glob("*.json")):
        try:
            entry = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(entry, dict):
            pid = entry.get("pid")
            found.append({"role": path.stem, **entry, "alive": isinstance(pid, int) and start_mark(pid) is not None})
    return found


def _text(value: dict[str, object]) -> str:
    versions, paths, processes = value["versions"], value["paths"], value["processes"]
    assert isinstance(versions, dict) and isinstance(paths, dict) and isinstance(processes, list)
    broker = value["broker"]
    assert broker is None or isinstance(broker, dict)
    running = table(
        [(one["role"], one.get("pid"), "yes" if one["alive"] else "no") for one in processes],
        ("process", "pid", "alive"),
    )
    return "\n".join(
        [
            table(list(versions.items()), ("package", "version")),
            "",
            table(list(paths.items()), ("folder", "path")),
            "",
            f"broker: {broker['bootstrap']}  {broker['label']}"
            if broker
            else "broker: none; `eo broker up` starts one",
            running if processes else "processes: none",
        ]
    )
