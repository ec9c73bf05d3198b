"""What the archive costs and how fast it answers: `python -m tests.bench.bench_archive [--hours 24] [--write FILE]`.

Three figures of writing are kept apart, since they are different work: JSON to records, records to Arrow tables, Arrow
tables to Parquet on disk (zstd-3, dictionaries, fsync and rename included). CPU time of this process, not wall time.
The queries run on a large archive as compaction leaves it, each in a connection of its own, as `eo sql` does: opening
and answering, wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streams import compaction
from streams.contract import codec
from streams.contract import records as r
from streams.sinks import archive_reader, parquet, rows, schemas, sql_files
from tests.bench import archive_data
from tests.fakes.archive import CLUSTER, STACK

GPUS, MESSAGES, FETCH, ROUNDS = 8, 4000, 500, 5


def message(number: int) -> bytes:
    """One node and second as a DGX host of the fleet sends it: 8 GPUs, 2 engines with histograms."""
    node, second = number % 100, number // 100
    uuids = tuple(f"GPU-{node:03}-{gpu}" for gpu in range(GPUS))
    noise = [(number * 31 + gpu * 17) % 101 for gpu in range(GPUS)]
    histogram = r.Histogram(index=tuple(range(160, 168)), count=tuple(1 + noise[i] for i in range(8)), sum_ms=512.5)
    gpu = r.GpuColumns(
        uuid=uuids,
        name=("NVIDIA H100 80GB HBM3",) * GPUS,
        state=("ok",) * GPUS,
        power_w=tuple(350 + part / 10 for part in noise),
        energy_mj=tuple(second * 350_000 + part * 971 for part in noise),
        limit_w=(700.0,) * GPUS,
        limit_default_w=(700.0,) * GPUS,
        limit_min_w=(200.0,) * GPUS,
        limit_max_w=(700.0,) * GPUS,
        sm_mhz=tuple(1200 + part // 10 * 15 for part in noise),
        sm_max_mhz=(1980,) * GPUS,
        sm_lock_mhz=(1500,) * GPUS,
        util_ratio=tuple(part / 101 for part in noise),
        temp_c=tuple(50.0 + part // 8 for part in noise),
        throttle=(0,) * GPUS,
    )
    engines = tuple(
        r.EngineReading(
            engine=f"engine-{node}-{half}",
            kind="twin",
            stack=STACK,
            workload="llm-conversation",
            gpu_uuid=uuids[half * 4 : half * 4 + 4],
            ts_ns=second,
            running=noise[half],
            generation_tokens_total=second * 900,
            ttft=histogram,
            tbt=histogram,
            e2e=histogram,
        )
        for half in range(2)
    )
    return codec.encode(
        r.NodeTelemetry(
            cluster=CLUSTER,
            node=f"node-{node:03}",
            boot_id="boot-1",
            seq=second,
            ts_ns=1_760_400_000_000_000_000 + second * 1_000_000_000 + node,
            source=("twin",),
            quality="simulated",
            gpu=gpu,
            engines=engines,
        )
    )


@dataclass(frozen=True, slots=True)
class Stage:
    """CPU microseconds per GPU row: the best and the median of the rounds."""

    name: str
    best_us: float
    median_us: float

    @property
    def rows_per_s(self) -> float:
        return 1e6 / self.best_us


def measure(name: str, work: Callable[[], object], gpu_rows: int) -> Stage:
    work()
    spent: list[float] = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        work()
        spent.append((time.process_time() - begun) / gpu_rows * 1e6)
    return Stage(name, min(spent), statistics.median(spent))


def writing(folder: Path) -> list[Stage]:
    """The three stages, one partition, fetches of 500 messages, one file for all of them."""
    raw = [message(number) for number in range(MESSAGES)]
    decoded = [codec.decode(r.NodeTelemetry, value) for value in raw]
    cuts = [decoded[start : start + FETCH] for start in range(0, MESSAGES, FETCH)]
    gpu_rows = MESSAGES * GPUS

    def to_tables() -> list[rows.Tables]:
        return [rows.to_tables(r.NodeTelemetry, rows.Batch(0, range(FETCH), [0] * FETCH, cut)) for cut in cuts]

    tables = to_tables()
    joined = {name: pa.concat_tables([part[name] for part in tables]) for name in tables[0]}
    only_gpus = {schemas.TELEMETRY.name: joined[schemas.TELEMETRY.name]}
    size = archive_data.Size()
    large = archive_data.telemetry(archive_data.Hour(size, 0, 0, np.random.default_rng(0)))

    count, noisy = large.num_rows, {schemas.TELEMETRY.name: large}

    def write(parts: dict[str, pa.Table]) -> None:
        for name, table in parts.items():
            parquet.write(folder, name, 489_000, partition=0, table=table)

    return [
        measure("JSON -> records (8 GPUs, 2 engines with histograms per message)", lambda: _decode(raw), gpu_rows),
        measure("records -> Arrow tables (GPU, host and engine rows)", to_tables, gpu_rows),
        measure("Arrow -> Parquet: GPU, host and engine rows, per GPU row", lambda: write(joined), gpu_rows),
        measure(f"Arrow -> Parquet: GPU rows, files of {gpu_rows:,}", lambda: write(only_gpus), gpu_rows),
        measure(f"Arrow -> Parquet: GPU rows with noise, files of {count:,}", lambda: write(noisy), count),
    ]


def _decode(raw: Sequence[bytes]) -> None:
    for value in raw:
        codec.decode(r.NodeTelemetry, value)


def asking(archive: Path) -> list[dict[str, Any]]:
    """Each query once to warm the page cache, then the median of three."""
    found: list[dict[str, Any]] = []
    for query in sql_files.load("queries").values():
        words = set(re.findall(r"\w+", query.sql))
        only = [name for name in archive_reader.view_names() if name in words]
        walls, cpus, count = [], [], 0
        for _ in range(4):
            begun, cpu = time.monotonic(), time.process_time()
            with archive_reader.open_reader(archive, only=only).connection as connection:
                count = len(connection.execute(query.sql, {p.name: p.default for p in query.params}).fetchall())
            walls.append(time.monotonic() - begun)
            cpus.append(time.process_time() - cpu)
        wall_s, cpu_s = statistics.median(walls[1:]), statistics.median(cpus[1:])
        found.append({"query": query.name, "rows": count, "wall_s": round(wall_s, 2), "cpu_s": round(cpu_s, 2)})
    return found


def page(stages: Sequence[Stage], asked: Sequence[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "# Archive: writing and asking",
        "",
        f"Made by `python -m tests.bench.bench_archive --hours {facts['hours']}` on {facts['cores']} cores "
        f"({facts['machine']}), load {facts['load']} when it began to ask: other work shared them. SIMULATED rows.",
        "",
        "## Writing, CPU of one core",
        "",
        "| stage | us per GPU row, best | median | GPU rows/s/core, best |",
        "|---|---|---|---|",
        *(f"| {s.name} | {s.best_us:.2f} | {s.median_us:.2f} | {s.rows_per_s:,.0f} |" for s in stages),
        "",
        "The archive job's whole cost is the sum of the first three. The last rows are what is usually called "
        "writing: tables to compressed, synced files.",
        "",
        f"## Asking {facts['hours']} h of {facts['gpus']} GPUs",
        "",
        f"{facts['telemetry_rows']:,} telemetry rows, {facts['all_rows']:,} rows in all, {facts['gb']} GB, "
        f"{facts['files']} files. Opening included, page cache warm.",
        "",
        "| query | rows | wall s | CPU s |",
        "|---|---|---|---|",
        *(f"| {a['query']} | {a['rows']} | {a['wall_s']} | {a['cpu_s']} |" for a in asked),
        "",
        f"Slowest: {max(a['wall_s'] for a in asked)} s.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=int, default=24)
    parser.add_argument("--archive", type=Path, help="an archive made by an earlier run; it is made when absent")
    parser.add_argument("--write", type=Path, help="write the page here")
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="eo-bench-archive-"))
    try:
        stages = writing(scratch / "write")
        archive, size = args.archive or scratch / "large", archive_data.Size(hours=args.hours)
        if not archive.exists():
            archive_data.build(archive, size)
        compaction.compact(archive, now_ns=time.time_ns())
        text = page(stages, asking(archive), _facts(archive, size))
    finally:
        shutil.rmtree(scratch)
    print(text)
    if args.write is not None:
        args.write.write_text(text)


def _facts(archive: Path, size: archive_data.Size) -> dict[str, Any]:
    files = list(archive.glob("topic=*/*/*/*.parquet"))
    with archive_reader.open_reader(archive).connection as connection:
        counts = {
            d.name: connection.execute(f"SELECT count(*) FROM {archive_reader.view_name(d.name)}").fetchall()[0][0]
            for d in schemas.DATASETS
        }
    return {
        "hours": size.hours,
        "gpus": size.nodes * size.gpus,
        "telemetry_rows": counts[schemas.TELEMETRY.name],
        "all_rows": sum(counts.values()),
        "files": len(files),
        "gb": round(sum(path.stat().st_size for path in files) / 1e9, 1),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "load": json.dumps(round(os.getloadavg()[0], 1)),
    }


if __name__ == "__main__":
    main()
