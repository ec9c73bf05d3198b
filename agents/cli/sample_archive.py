"""`eo sample-archive DIR`: a made-up archive of some days, so that forecasts and queries have a past to work on.

Everything in it is SIMULATED and every row says so: the load follows a recorded week (Azure 2024), the watts come from
the twin's device law. It is made by code within a second or two, never shipped, and never written into a real archive.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import DONE, USAGE, EoError, emit
from agents.cli.parser import name, number, whole

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

README: Final = """SIMULATED sample archive of Energy Orchestrator, made by `eo sample-archive`.
No machine was measured: the load follows one recorded week of requests (Azure 2024, CC-BY-4.0, Microsoft), repeated;
the watts come from the twin's law of an H100. Every row has quality = simulated. Use it to try forecasts and queries,
never to report energy.
"""
WEEK_S: Final = 7 * 86_400
STEP_S: Final = 300  # a sample of each GPU this often, and a second one half a minute later: counters need two
PAIR_S: Final = 30
PEAK_RUNNING: Final = 180.0  # sequences of an engine in the busiest minute of the week
TOKENS_HELD: Final = 1_500.0  # by a running sequence
OUTPUT_TOKENS: Final = 250.0
SPAN: Final = 4  # GPUs of an engine
SPREAD: Final = 0.03  # of the boards' power
NOISE: Final = 0.06  # of the load, from step to step
S_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make. It ends at `end_s` (seconds since 1970)."""

    days: float = 14.0
    nodes: int = 2
    gpus: int = 4
    cluster: str = "sample"
    seed: int = 1
    end_s: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo sample-archive /tmp/sample --days 14\n"
        "  eo forecast --archive /tmp/sample --metric power_w --hours 24\n"
        "  eo sql --archive /tmp/sample power_by_node_hour\n  eo gateway --archive /tmp/sample"
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder that is not there yet, or empty")
    parser.add_argument("--days", type=number(1, 90), default=14.0, help="how many, up to now (default 14)")
    parser.add_argument("--nodes", type=whole(1, 100), default=2, help="simulated nodes (default 2)")
    parser.add_argument("--gpus", type=whole(SPAN, 16), default=4, help="GPUs of a node, a multiple of 4 (default 4)")
    parser.add_argument("--cluster", type=name, default="sample", help="name of the made-up cluster (default sample)")
    parser.add_argument("--seed", type=whole(0, 2**31), default=1, help="of noise and spread (default 1)")


def run(args: argparse.Namespace) -> int:
    if args.gpus % SPAN:
        raise EoError(f"--gpus {args.gpus} is no multiple of {SPAN}: a simulated engine spans {SPAN} GPUs.", USAGE)
    plan = Plan(args.days, args.nodes, args.gpus, args.cluster, args.seed, int(time.time()))
    rows = make(args.folder, plan)
    facts = {"archive": str(args.folder), "quality": "simulated", "rows": rows, "days": plan.days}
    emit(
        args,
        facts,
        f"SIMULATED: {rows} rows of {plan.days:g} days of {plan.nodes * plan.gpus} made-up GPUs lie in {args.folder}.\n"
        f"Try: eo forecast --archive {args.folder} --metric power_w --hours 24",
    )
    return DONE


def make(folder: Path, plan: Plan) -> int:
    """Writes the archive, all of it or nothing; returns its rows. Raises EoError where something is there already."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise EoError(
            f"{folder} holds something already; name a folder that is not there yet, so that yours stays.", USAGE
        )
    half = folder.with_name(f".{folder.name}.half")
    try:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        rows = sum(_write(half, dataset, table) for dataset, table in _tables(plan))
        (half / "README.txt").write_text(README)
        if folder.exists():
            folder.rmdir()
        half.rename(folder)
    except OSError as error:
        shutil.rmtree(half, ignore_errors=True)
        raise EoError(f"{folder} cannot be written ({error.strerror}); name another folder.") from error
    return rows


def _write(archive: Path, dataset: str, table: pa.Table) -> int:
    """Hour by hour, as the archive job lays them out; without its fsyncs: this can be made again."""
    from streams.sinks.parquet import FileName, by_hour, hour_folder, write_table

    for hour, part in by_hour(table):
        place = archive / hour_folder(dataset, hour)
        place.mkdir(parents=True, exist_ok=True)
        first, last = part["offset"][0].as_py(), part["offset"][part.num_rows - 1].as_py()
        with (place / f"{FileName(0, first, last)}.parquet").open("wb") as sink:
            write_table(sink, part)
    return int(table.num_rows)


def _tables(plan: Plan) -> Iterator[tuple[str, pa.Table]]:
    """Telemetry per GPU, then readings per engine; in the order of time, as offsets are."""
    import numpy as np

    from streams.sinks.schemas import ENGINE, TELEMETRY

    steps = int(plan.days * 86_400 // STEP_S)
    start_s = plan.end_s - steps * STEP_S
    begin_s = start_s + STEP_S * np.repeat(np.arange(steps), 2) + np.tile([0, PAIR_S], steps)
    rng = np.random.default_rng(plan.seed)
    engines = plan.nodes * plan.gpus // SPAN
    share = _week(begin_s.astype(np.float64))[:, None] * rng.lognormal(0.0, NOISE, (len(begin_s), engines))
    running = np.maximum(0.0, np.round(PEAK_RUNNING * share))
    token_s, watts, busy = _priced(running)
    per_board = np.repeat(watts, SPAN, axis=1) * (1.0 + SPREAD * rng.standard_normal(engines * SPAN))
    yield (
        TELEMETRY.name,
        _columns(TELEMETRY.schema, plan, begin_s, engines * SPAN, _gpus(plan, begin_s, per_board, busy)),
    )
    yield ENGINE.name, _columns(ENGINE.schema, plan, begin_s, engines, _engines(begin_s, running, token_s))


def _week(at_s: Array) -> Array:
    """Load of the recorded week at these times, 0 to 1 of its peak; repeated for ever."""
    import csv
    from importlib import resources

    import numpy as np

    with resources.files("agents.cli").joinpath("bench_data", "azure2024_arrivals.csv").open() as text:
        rows = [(float(row["t_s"]), float(row["conversation_rpm"])) for row in csv.DictReader(text)]
    t_s, rpm = np.array(rows).T
    found: Array = np.interp(at_s % WEEK_S, t_s, rpm / rpm.max(), period=WEEK_S)
    return found


def _priced(running: Array) -> tuple[Array, Array, Array]:
    """Seconds per token, watts of a GPU and share of time at work, at full clock, by the twin's law."""
    import numpy as np

    from models.control.profiles import LLAMA_70B_H100X4 as STACK
    from models.twin.device import Load, demand, idle_w, price

    flat, full = running.ravel(), np.ones(running.size)
    t_s, watts = price(STACK, demand(STACK, Load(flat, flat * TOKENS_HELD, np.zeros(running.size))), full)
    busy = np.minimum(1.0, flat)
    watts = busy * watts + (1.0 - busy) * idle_w(STACK.device, full)
    return t_s.reshape(running.shape), watts.reshape(running.shape), busy.reshape(running.shape)


def _gpus(plan: Plan, at_s: NDArray[Any], watts: Array, busy: Array) -> dict[str, Any]:
    import numpy as np

    from models.control.profiles import H100_SXM, TWIN_STACK

    count = watts.shape[1]
    seconds = np.diff(at_s, prepend=at_s[0])[:, None]
    uuids = [f"GPU-sample-{plan.seed}-{number:04d}" for number in range(count)]
    return {
        "uuid": uuids,
        "gpu_index": [number % plan.gpus for number in range(count)],
        "name": f"{H100_SXM.name} (simulated)",
        "state": "ok",
        "engine": [f"sample-{number // SPAN}" for number in range(count)],
        "stack": TWIN_STACK,
        "workload": "conversation",
        "power_w": watts,
        "energy_mj": np.cumsum(watts * seconds * 1000.0, axis=0).astype(np.int64),
        "util_ratio": np.repeat(busy, SPAN, axis=1),
        "sm_mhz": np.full(watts.shape, int(H100_SXM.fmax_mhz)),
        "limit_w": np.full(watts.shape, H100_SXM.limit_default_w),
        "limit_default_w": np.full(watts.shape, H100_SXM.limit_default_w),
    }


def _engines(at_s: NDArray[Any], running: Array, token_s: Array) -> dict[str, Any]:
    import numpy as np

    from models.control.profiles import TWIN_STACK

    count = running.shape[1]
    tokens = np.cumsum(running / token_s * np.diff(at_s, prepend=at_s[0])[:, None], axis=0)
    return {
        "engine": [f"sample-{number}" for number in range(count)],
        "stack": TWIN_STACK,
        "workload": "conversation",
        "kind": "twin",
        "running": running.astype(np.int64),
        "waiting": np.zeros(running.shape, np.int64),
        "generation_tokens_total": tokens.astype(np.int64),
        "requests_total": (tokens / OUTPUT_TOKENS).astype(np.int64),
    }


def _columns(schema: pa.Schema, plan: Plan, at_s: NDArray[Any], wide: int, own: dict[str, Any]) -> pa.Table:
    """A table of times by members; what is named once stands in every row, what is not named is unknown."""
    import numpy as np
    import pyarrow as pa

    rows = len(at_s) * wide
    ts_ns = np.repeat(at_s.astype(np.int64), wide) * S_NS
    per_node = wide // plan.nodes
    shared = {
        "cluster": plan.cluster,
        "node": [f"sample-node-{number // per_node}" for number in range(wide)],
        "quality": "simulated",
        "boot_id": "sample",
        "seq": np.repeat(np.arange(len(at_s)), wide),
        "ts": pa.array(ts_ns // 1000).cast(pa.timestamp("us", "UTC")),
        "ts_ns": ts_ns,
        "engine_ts_ns": ts_ns,
        "partition": np.zeros(rows, np.int32),
        "offset": np.arange(rows),
        "sent_ms": ts_ns // 1_000_000,
    }
    values = {**shared, **own}
    return pa.table([_column(values.get(field.name), field.type, rows, wide) for field in schema], schema=schema)


def _column(value: Any, kind: pa.DataType, rows: int, wide: int) -> pa.Array:
    import numpy as np
    import pyarrow as pa

    if value is None:
        return pa.nulls(rows, kind)
    if isinstance(value, str):
        value = [value] * wide
    if isinstance(value, list):  # one value per member, again at each time
        codes = np.tile(np.arange(wide), rows // wide)
        return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(value)).cast(kind)
    return value if isinstance(value, pa.Array) else pa.array(value.ravel(), kind)
