"""`eo read SOURCE`: one normalised reading of a source, as the contract has it. Reads only; nothing is published."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from agents.cli.base import USAGE, EoError, emit, table

if TYPE_CHECKING:
    from agents.node.sources.base import Reading, Source
    from streams.contract.records import NodeTelemetry

PAUSE_S = 0.2  # CPU use and rates take two readings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Reads a source once and shows what it says, in the contract's units; unknown stays unknown."
    parser.epilog = "example: eo read nvml --json"
    parser.add_argument("source", metavar="SOURCE", help="nvml, procfs or replay")
    parser.add_argument("path", nargs="?", help="replay: the recording; procfs: the root of a recorded tree")


def run(args: argparse.Namespace) -> int:
    """Reads and prints; exit code 1 when the source has nothing here."""
    from agents.node.errors import SettingsError, SourceError
    from agents.node.sources import registry

    try:
        source = registry.make(args.source, _options(args))
    except SettingsError as error:
        raise EoError(str(error), USAGE) from error
    try:
        probe = source.probe()
        if not probe.present:
            raise EoError(f"source {args.source} has nothing here: {probe.reason}")
        record = _record(_reading(source))
    except SourceError as error:
        raise EoError(str(error)) from error
    finally:
        source.close()
    import msgspec

    emit(args, msgspec.to_builtins(record), lambda: _text(record))
    return 0


def _options(args: argparse.Namespace) -> dict[str, object]:
    if args.source == "replay" and not args.path:
        raise EoError("source replay needs a recording: eo read replay FILE", USAGE)
    if args.path and args.source not in {"replay", "procfs"}:
        raise EoError(f"source {args.source} takes no path, got {args.path!r}", USAGE)
    if args.source == "replay":
        return {"path": args.path, "speed": 0}
    return {"root": args.path} if args.path else {}


def _reading(source: Source) -> Reading:
    if source.name == "procfs":
        source.read(time.time_ns())
        time.sleep(PAUSE_S)
    return source.read(time.time_ns())


def _record(reading: Reading) -> NodeTelemetry:
    """A reading in the shape of a telemetry record, so that the output can be kept and replayed."""
    import socket

    from streams.contract.records import NodeTelemetry

    return NodeTelemetry(
        cluster="default",
        node=socket.gethostname(),
        boot_id="read",
        seq=1,
        ts_ns=reading.ts_ns,
        source=(reading.source,),
        quality=reading.quality,
        capability=reading.capability,
        gpu=reading.gpu,
        host=reading.host,
        engines=reading.engines,
    )


def _text(record: NodeTelemetry) -> str:
    parts = [f"{record.source[0]}: quality {record.quality}; can give {', '.join(record.capability) or 'nothing'}"]
    gpu = record.gpu
    if gpu is not None:
        columns = [name for name in gpu.__struct_fields__ if name != "uuid" and getattr(gpu, name) is not None]
        rows = [[name, *getattr(gpu, name)] for name in columns]
        parts.append(table(rows, ["GPU", *gpu.uuid]))
    if record.host is not None:
        host = record.host
        known = [[name, getattr(host, name)] for name in host.__struct_fields__ if name != "cgroup"]
        parts.append(table(known, ["host", "value"]))
        if host.cgroup is not None:
            parts.append(
                table(list(zip(host.cgroup.path, host.cgroup.cpu_us, strict=True)), ["control group", "cpu_us"])
            )
    for engine in record.engines:
        parts.append(f"engine {engine.engine}: {engine.running} running, {engine.waiting} waiting")
    return "\n\n".join(parts)
