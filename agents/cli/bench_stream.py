"""`eo bench stream`: the features job on a backlog, on our batch transport and on Faust's own, one core each, one run.

Both read the same messages from a broker of their own, compute the same features with the same job class and write
them back. Outputs are counted on the broker.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from agents.cli.base import DONE, EoError, table

if TYPE_CHECKING:
    from streams.contract.records import EngineReading, NodeTelemetry
    from streams.contract.topics import Topic

PARTITIONS: Final = 4
SECONDS_OF_BACKLOG: Final = 400  # per node: 40,000 messages of 100 nodes, about 110 MB
# mode -> (share of the backlog that is read, what it is); Faust's own transport would need minutes for all of it.
MODES: Final = {
    "batch": (1.0, "batch transport: one fetch of one partition is one event"),
    "faust-take": (0.25, "Faust's own transport, stream.take(500), our publisher"),
    "faust-event": (0.125, "Faust's own transport, one event at a time, outputs by topic.send"),
}
TURNS: Final = (
    3  # each mode in turn, three times; other work on the machine only ever adds CPU time, so the least counts
)
CHILD_LIMIT_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """One mode: `cpu_s` of all threads and `wall_s` from the first record in hand to the last output acknowledged."""

    mode: str
    messages: int
    gpu_samples: int
    outputs: int
    wall_s: float
    cpu_s: float

    @property
    def per_s(self) -> float:
        """GPU samples per second of wall time, pinned to one core."""
        return self.gpu_samples / self.wall_s

    @property
    def per_cpu_s(self) -> float:
        """GPU samples per second of CPU time of all threads: what one core that does nothing else sustains."""
        return self.gpu_samples / self.cpu_s

    @property
    def us_per_message(self) -> float:
        return self.cpu_s / self.messages * 1e6


def run(args: argparse.Namespace) -> int:
    """Measures, prints, and writes the page where `--write` says; raises EoError when a mode fails or loses."""
    from agents.cli.bench import deliver, put

    results = measure(nodes=args.nodes, gpus=args.gpus)
    text = page(results, nodes=args.nodes, gpus=args.gpus)
    if args.write is not None:
        put(args.write, text)
    deliver(
        args,
        [asdict(one) | {"gpu_samples_per_s": one.per_s, "gpu_samples_per_cpu_s": one.per_cpu_s} for one in results],
        text,
    )
    return DONE


def measure(*, nodes: int, gpus: int, seconds: int = SECONDS_OF_BACKLOG) -> list[Result]:
    """Every mode on a fresh broker with the same backlog."""
    from agents.cli import brokers
    from agents.cli.topic_admin import apply
    from streams.contract.layout import Layout

    with tempfile.TemporaryDirectory(prefix="eo-bench-") as folder:
        layout = Layout(Path(folder) / "data")
        env = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP"}
        info = brokers.up(layout, env=env)
        try:
            apply(info.bootstrap, partitions=PARTITIONS)
            fill(info.bootstrap, nodes=nodes, gpus=gpus, seconds=seconds)
            runs = [
                _one(mode, info.bootstrap, layout.root, total=nodes * seconds, gpus=gpus, turn=turn)
                for turn in range(TURNS)
                for mode in MODES
            ]
            return [
                min((run for run in runs if run.mode == mode), key=lambda run: run.cpu_s / run.messages)
                for mode in MODES
            ]
        finally:
            brokers.down(layout)


def _one(mode: str, bootstrap: str, data_dir: Path, *, total: int, gpus: int, turn: int) -> Result:
    from streams.contract.topics import FEATURES

    wanted = int(total * MODES[mode][0])
    before = count(bootstrap, FEATURES)
    env = os.environ | {
        "KAFKA_BOOTSTRAP": bootstrap,
        "EO_DATA_DIR": str(data_dir),
        "EO_CLUSTER": f"bench-{mode}-{turn}",
    }
    command = [sys.executable, "-m", "agents.cli.bench_stream_run", mode, str(wanted)]
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=CHILD_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EoError(
            f"{mode} did not read {wanted} messages in {CHILD_LIMIT_S:.0f} s; free a core and try again"
        ) from error
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise EoError(f"{mode} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(lines[-1])
    outputs = count(bootstrap, FEATURES) - before
    if outputs < found["messages"]:
        raise EoError(f"{mode} read {found['messages']} messages and wrote {outputs}: outputs are missing")
    return Result(mode, found["messages"], found["messages"] * gpus, outputs, found["wall_s"], found["cpu_s"])


def page(results: list[Result], *, nodes: int, gpus: int) -> str:
    """The figures as a Markdown page, with what was done to get them."""
    ours = results[0]
    rows = [
        (
            MODES[one.mode][1],
            f"{one.messages:,}",
            f"{one.per_cpu_s:,.0f}",
            f"{one.us_per_message:.0f}",
            f"{one.per_s:,.0f}",
            f"{ours.per_cpu_s / one.per_cpu_s:.1f}x",
        )
        for one in results
    ]
    head = ("how", "node messages", "GPU samples per CPU s", "CPU us per message", "GPU samples/s, wall", "ours / this")
    lines = [
        "# The features job on a backlog",
        "",
        f"`eo bench stream --nodes {nodes} --gpus {gpus}` on a real broker of its own, {PARTITIONS} partitions,",
        f"backlog of {nodes} nodes x {SECONDS_OF_BACKLOG} s at 1 Hz. Each reader is pinned to one core and does the",
        "whole work: read, decode, nine features per GPU over 60 s, encode, write, have it acknowledged, commit.",
        f"{platform.machine()}, {os.cpu_count()} cores shared with the broker, Python {platform.python_version()}.",
        "",
        "```",
        table(rows, head),
        "```",
        "",
        f"The best of {TURNS} turns of each, modes taking turns. CPU time is that of all threads; wall time also shows",
        "what else ran on the core, such as the broker.",
        "Wanted: more than 100,000 GPU samples/s, and at least 8 times the same work in a plain Faust agent (one event",
        "at a time). The row with `take(500)` shows what batching inside Faust alone would give.",
    ]
    return "\n".join(lines) + "\n"


def count(bootstrap: str, topic: Topic) -> int:
    """Messages in a topic."""
    from streams.replay import Replay

    with Replay(bootstrap, "eo-bench-count") as replay:
        bounds = [replay.bounds(topic.name, p) for p in range(replay.partitions(topic.name))]
    return sum(high - low for low, high in bounds)


# --- the backlog ---


def fill(bootstrap: str, *, nodes: int, gpus: int, seconds: int) -> None:
    """Writes the telemetry of `nodes` nodes for `seconds` seconds."""
    from confluent_kafka import Producer

    from streams.contract import codec
    from streams.contract.kafka import producer_config
    from streams.contract.topics import TELEMETRY

    producer = Producer(producer_config(bootstrap, "eo-bench-fill", linger_ms=20))
    for record in backlog(nodes=nodes, gpus=gpus, seconds=seconds):
        producer.produce(TELEMETRY.name, key=record.node.encode(), value=codec.encode(record))
        producer.poll(0)
        if len(producer) > 50_000:
            producer.flush()
    producer.flush()


def backlog(*, nodes: int, gpus: int, seconds: int, seed: int = 1) -> Iterator[NodeTelemetry]:
    """Synthetic telemetry with the fields and sizes of the twin's: counters that count, readings that vary."""
    import random

    rng = random.Random(seed)
    for second in range(1, seconds + 1):
        for node in range(nodes):
            yield telemetry(f"node-{node:05d}", second, gpus, rng)


def telemetry(node: str, second: int, gpus: int, rng: Any) -> NodeTelemetry:
    """One node's second."""
    from streams.contract.records import GpuColumns, NodeTelemetry

    def some(low: float, high: float) -> tuple[float, ...]:
        return tuple(round(rng.uniform(low, high), 3) for _ in range(gpus))

    start_ns = 1_760_000_000_000_000_000
    return NodeTelemetry(
        cluster="bench",
        node=node,
        boot_id=f"{node}-boot",
        seq=second,
        ts_ns=start_ns + second * 1_000_000_000,
        source=("twin",),
        quality="simulated",
        gpu=GpuColumns(
            uuid=tuple(f"GPU-{node}-{index}" for index in range(gpus)),
            name=("NVIDIA H100 80GB HBM3",) * gpus,
            power_w=some(90, 700),
            energy_mj=tuple(second * 400_000 + index for index in range(gpus)),
            limit_w=(700.0,) * gpus,
            limit_default_w=(700.0,) * gpus,
            limit_min_w=(200.0,) * gpus,
            limit_max_w=(700.0,) * gpus,
            sm_mhz=tuple(rng.randint(600, 1980) for _ in range(gpus)),
            sm_max_mhz=(1980,) * gpus,
            util_ratio=some(0, 1),
            mem_used_mb=some(1000, 70_000),
            mem_total_mb=(81_559.0,) * gpus,
            temp_c=some(30, 80),
            throttle=(0,) * gpus,
        ),
        engines=tuple(_engine(node, second, at, min(at + 4, gpus)) for at in range(0, gpus, 4)),
        spool_depth=1,
        lost_total=0,
    )


def _engine(node: str, second: int, first: int, stop: int) -> EngineReading:
    from streams.contract.records import EngineReading, Histogram

    rare = Histogram(index=(250, 260, 270), count=(1, 1, 2), sum_ms=3000.0)
    return EngineReading(
        engine=f"{node}-{first}",
        kind="twin",
        stack="llama-3.1-70b/bf16/twin/h100x4",
        workload="llm-conversation",
        gpu_uuid=tuple(f"GPU-{node}-{index}" for index in range(first, stop)),
        ts_ns=second * 1_000_000_000,
        running=20,
        waiting=0,
        waiting_tokens=0,
        kv_tokens=90_000,
        kv_use_ratio=0.3,
        prompt_tokens_total=second * 4000,
        generation_tokens_total=second * 1500,
        requests_total=second * 4,
        ttft=rare,
        tbt=Histogram(index=tuple(range(150, 162)), count=(5,) * 12, sum_ms=1800.0),
        e2e=rare,
    )
