"""`eo read SOURCE`: one normalised reading of a source, as the contract has it. Reads only; nothing is published.

The JSON is a telemetry record (so that it can be kept and replayed) with a row per GPU, domain and sensor beside its
columns, and the reason of everything that is missing.
"""

from __future__ import annotations

import argparse
import logging
import time
from typing import TYPE_CHECKING, Any

from agents.cli.base import USAGE, EoError, emit, table

if TYPE_CHECKING:
    from agents.node.sources.base import Reading, Source
    from agents.node.sources.registry import Entry
    from streams.contract.records import NodeTelemetry

PAUSE_S = 0.2  # CPU use and rates take two readings
TIMEOUTS_S = (0.1, 300.0)
FLAGS = {"url": "URL", "file": "FILE", "root": "DIR"}
# What everybody wants of a GPU or a domain: without a reason of the source's own these get a plain one.
EXPECTED = {"gpus": ("power_w", "energy_mj", "limit_w", "sm_mhz", "temp_c"), "domains": ("power_w",)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.description = "Reads a source once and shows what it says, in the contract's units; unknown stays unknown."
    parser.epilog = "examples: eo read nvml --json; eo read dcgm --url http://127.0.0.1:9400/metrics; eo read list"
    parser.add_argument("source", metavar="SOURCE", help="a source's name, or `list` for all of them")
    parser.add_argument(
        "path", nargs="?", help="short for the flag that the source takes, e.g. the recording of replay"
    )
    parser.add_argument("--url", metavar="URL", help="where the source listens, e.g. an exporter or a BMC")
    parser.add_argument("--file", metavar="FILE", help="a recorded text instead of the live source")
    parser.add_argument("--root", metavar="DIR", help="a recorded tree instead of the live one")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds to wait for one answer; default 5 or 10")


def run(args: argparse.Namespace) -> int:
    """Reads and prints; exit code 1 when the source has nothing here."""
    from agents.node.errors import SettingsError, SourceError
    from agents.node.sources import registry

    # A source's own log lines are for the agent's journal: here the error's one sentence says the same.
    for name in ("agents.node", "eo.agent"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    if args.source == "list":
        return _list(args)
    try:
        name = registry.canonical(args.source)
        entry = registry.SOURCES[name]
        source = registry.make(name, _options(args, name, entry))
    except SettingsError as error:
        raise EoError(str(error), USAGE) from error
    try:
        reading = _once(source, entry, args.source)
    except SourceError as error:
        raise EoError(str(error)) from error
    finally:
        source.close()
    record = _record(reading)
    emit(args, _rows(record, reading), lambda: _text(record, reading))
    return 0


def _list(args: argparse.Namespace) -> int:
    from agents.node.sources.registry import SOURCES

    rows = [[name, ", ".join(f"--{flag}" for flag in entry.keywords), entry.help] for name, entry in SOURCES.items()]
    emit(
        args,
        [{"name": row[0], "takes": list(SOURCES[row[0]].keywords), "reads": row[2]} for row in rows],
        lambda: table([[name, flags or None, text] for name, flags, text in rows], ["source", "takes", "reads"]),
    )
    return 0


# --- where to read ---------------------------------------------------------------------------------------------------


def _options(args: argparse.Namespace, name: str, entry: Entry) -> dict[str, object]:
    """The agent's own settings of this source, with what was given here in place of where it would read."""
    from agents.node.settings import NodeSettings

    given = _given(args, entry)
    settings = NodeSettings.from_env().source_options(name)
    if given:
        settings = {key: value for key, value in settings.items() if key not in entry.keywords.values()}
    wait = _patience(args, entry)
    options = {key: value for key, value in {**settings, **entry.once, **wait, **given}.items() if value != ""}
    if entry.needs and not any(keyword in options for keyword in entry.keywords.values()):
        raise EoError(f"source {args.source} needs {entry.needs}", USAGE)
    return options


def _patience(args: argparse.Namespace, entry: Entry) -> dict[str, object]:
    """How long one answer may take: a person waits longer than the agent, whose interval is half a second."""
    if not entry.patience_s:
        if args.timeout is not None:
            raise EoError(f"source {args.source} has no wait to be set; leave --timeout out", USAGE)
        return {}
    seconds = entry.patience_s if args.timeout is None else args.timeout
    low, high = TIMEOUTS_S
    if not low <= seconds <= high:
        raise EoError(f"--timeout {seconds:g} is out of bounds; give {low:g} to {high:g} seconds", USAGE)
    return {"deadline_s": seconds}


def _given(args: argparse.Namespace, entry: Entry) -> dict[str, object]:
    takes = entry.keywords
    given = {flag: getattr(args, flag) for flag in FLAGS if getattr(args, flag, None)}
    if args.path:
        plain = next((flag for flag in takes if flag != "url"), None)
        flag = "url" if "url" in takes and ("://" in args.path or plain is None) else plain
        if flag is None:
            raise EoError(f"source {args.source} takes no path, got {args.path!r}", USAGE)
        given.setdefault(flag, args.path)
    for flag in given:
        if flag not in takes:
            takes_text = " or ".join(f"--{known} {FLAGS[known]}" for known in takes) or "no place to read from"
            raise EoError(f"source {args.source} takes no --{flag}; it takes {takes_text}", USAGE)
    if len(given) > 1:
        raise EoError(f"give one of {', '.join(f'--{flag}' for flag in given)}: a reading has one origin", USAGE)
    return {takes[flag]: value for flag, value in given.items()}


# --- one reading -----------------------------------------------------------------------------------------------------


def _once(source: Source, entry: Entry, name: str) -> Reading:
    from agents.node.sources import sound

    probe = source.probe()
    if not probe.present:
        raise EoError(f"source {name} has nothing here: {probe.reason}")
    if entry.twice:
        source.read(time.time_ns())
        time.sleep(PAUSE_S)
    reading = source.read(time.time_ns())
    if unsound := sound.problem(reading):
        raise EoError(f"source {name} gave a faulty reading: {unsound}")
    if not reading.says:
        why = "; ".join(f"{part}: {reason}" for part, reason in reading.missing) or "it answered without any value"
        raise EoError(f"source {name} has nothing to read: {why}")
    return reading


def _record(reading: Reading) -> NodeTelemetry:
    """A reading in the shape of a telemetry record."""
    import socket

    from agents.node import merge
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
        domains=merge.domains([reading]),
        sensors=merge.sensors([reading]),
    )


def _rows(record: NodeTelemetry, reading: Reading) -> dict[str, Any]:
    """With rows: `gpus` beside its columns `gpu`; `domains` and `sensors` as rows, which replay takes too."""
    import msgspec

    from agents.node.sources import rows

    # Through JSON, so that NaN and infinities become null as they do on the wire.
    out: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(record))
    views = {
        "gpus": rows.of_gpus(record.gpu, record.quality),
        "domains": rows.of_domains(record.domains) or None,
        "sensors": rows.of_sensors(record.sensors) or None,
    }
    out.update(msgspec.json.decode(msgspec.json.encode(views)))
    out["missing"] = _missing(out, reading)
    return out


def _missing(out: dict[str, Any], reading: Reading) -> dict[str, str]:
    """Part -> reason: what the source says, and a plain reason for what everybody expects and nobody explained."""
    missing = dict(reading.missing)
    for part, fields in EXPECTED.items():
        for field in fields:
            if not out[part] or f"{part}.{field}" in missing:
                continue
            unknown = [row for row in out[part] if row[field] is None]
            if len(unknown) == len(out[part]):
                missing[f"{part}.{field}"] = f"source {reading.source} gives no {field} here"
                continue
            for row in unknown:
                name = f"{part}[{row.get('uuid') or row['name']}].{field}"
                missing.setdefault(name, f"source {reading.source} gives no {field} for it, but for others")
    return missing


# --- text ------------------------------------------------------------------------------------------------------------


def _text(record: NodeTelemetry, reading: Reading) -> str:
    from agents.node.sources import rows

    parts = [f"{record.source[0]}: quality {record.quality}; can give {', '.join(record.capability) or 'nothing'}"]
    gpu = record.gpu
    if gpu is not None:
        columns = [name for name in gpu.__struct_fields__ if name != "uuid" and getattr(gpu, name) is not None]
        parts.append(table([[name, *getattr(gpu, name)] for name in columns], ["GPU", *gpu.uuid]))
    if record.host is not None:
        host = record.host
        parts.append(table([[n, getattr(host, n)] for n in host.__struct_fields__ if n != "cgroup"], ["host", "value"]))
        if host.cgroup is not None:
            groups = list(zip(host.cgroup.path, host.cgroup.cpu_us, strict=True))
            parts.append(table(groups, ["control group", "cpu_us"]))
    parts += [
        _row_table(found) for found in (rows.of_domains(record.domains), rows.of_sensors(record.sensors)) if found
    ]
    if record.engines:
        parts.append(_engine_table(record))
    if reading.missing:
        parts.append(table([list(pair) for pair in reading.missing], ["missing", "because"]))
    return "\n\n".join(parts)


def _engine_table(record: NodeTelemetry) -> str:
    """A row per engine; histograms as count, median and p99."""
    from streams.contract.histogram import pool, quantile

    rows = []
    for engine in record.engines:
        row: dict[str, Any] = {name: getattr(engine, name) for name in engine.__struct_fields__}
        for name in ("ttft", "tbt", "e2e"):
            if (found := row.pop(name)) is not None:
                counts = pool([found])
                row[f"{name}_n"] = sum(found.count)
                row[f"{name}_p50_ms"], row[f"{name}_p99_ms"] = (
                    None if (value := quantile(counts, q, found.scale)) is None else round(value, 1)
                    for q in (0.5, 0.99)
                )
        rows.append({**row, "gpu_uuid": ", ".join(engine.gpu_uuid) or None, "ts_ns": None})
    names = [
        name for name in dict.fromkeys(n for row in rows for n in row) if any(row.get(name) is not None for row in rows)
    ]
    return table(
        [[name, *(row.get(name) for row in rows)] for name in names if name != "engine"],
        ["engine", *(row["engine"] for row in rows)],
    )


def _row_table(found: list[dict[str, Any]]) -> str:
    names = [name for name in found[0] if any(row[name] is not None for row in found)]
    return table([[row[name] for name in names] for row in found], names)
