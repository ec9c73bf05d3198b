"""What one slow step costs: `python -m tests.bench.bench_slow [--replicas 1000]`, JSON to stdout. Simulated, one core.

Everything that the actuation job does every 5-60 s: rates of all engines, one replica plan, set points, a row over all
GPUs with water filling and its brake table, and the PID. Kafka is left out; the plan is encoded as it would be sent.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from models.control.profiles import TWIN_STACK
from streams.contract.records import EngineReading, NodeFeatures
from streams.contract.topics import FEATURES
from streams.jobs.actuation import ActuationJob
from tests.unit.jobs.support import Clock, FakeState, context, features, messages
from tests.unit.jobs.test_actuation import Words

MODES: dict[str, dict[str, Any]] = {
    "replicas": {},
    "row": {"row_budget_w": 1.0},  # made 0.8 of the default limits below
    "ml-driven": {"strategy": "ml-driven"},
    "pid": {"power_target_w": 400.0},
}


def measure(replicas: int, **settings: Any) -> dict[str, float]:
    """CPU seconds of the slow steps, the median of five."""
    if "row_budget_w" in settings:
        settings["row_budget_w"] = replicas * 4 * 560.0
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        ctx = context(Path(folder), clock, **{"mode": "observe", "slow_interval_s": 5.0, **settings})
        job = ActuationJob(lambda _: Words(), partitions=lambda _: 1)
        job.start(ctx)
        job.assign(frozenset({0}))
        costs = [_round(job, clock, replicas, number) for number in range(7)][2:]
        state = ctx.state
        assert isinstance(state, FakeState)
        (saved,) = [one for (name, _), one in state.saved.items() if name == "actuation-plan"]
        job.stop()
    return {"step_s": sorted(costs)[len(costs) // 2], "plan_bytes": float(len(bytes(saved.data)))}


def _round(job: ActuationJob, clock: Clock, replicas: int, number: int) -> float:
    for _ in range(2):
        clock.now_s += 2.6
        records = [_loaded(f"n{i}", clock, number) for i in range(replicas // 2)]
        job.process(FEATURES, 0, messages(records))
    began = time.process_time()
    job.tick()
    return time.process_time() - began


def _loaded(node: str, clock: Clock, number: int) -> NodeFeatures:
    record = features(node, int(clock.now_s * 10), ts_ns=clock.wall_ns(), tbt_ms=None)
    served = int(clock.now_s * 2.0)
    engines = tuple(_engine(one, served + number) for one in record.engines)
    return msgspec.structs.replace(record, engines=engines)


def _engine(engine: EngineReading, served: int) -> EngineReading:
    return msgspec.structs.replace(
        engine,
        stack=TWIN_STACK,
        requests_total=served,
        prompt_tokens_total=served * 1600,
        generation_tokens_total=served * 100,
        kv_tokens=8 * 1700,
        waiting_tokens=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=1000)
    asked = parser.parse_args()
    found = {name: measure(asked.replicas, **mode) for name, mode in MODES.items()}
    print(json.dumps({"replicas": asked.replicas, "gpus": asked.replicas * 4, "cpu": found}, indent=1))


if __name__ == "__main__":
    main()
