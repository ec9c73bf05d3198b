"""Features of a simulated cluster under recorded load: what the anomaly detectors meet when nothing is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from agents.fleet.trace import recorded_workload
from models.features.registry import compute_all
from models.features.window import COLUMNS, WIDTH, Window
from models.twin.cluster import TwinCluster
from models.twin.params import variant
from streams.contract.records import EngineReading, NodeFeatures
from tests.unit.jobs.support import H100, STACK, T0_NS

PER_ENGINE = 4
Floats = NDArray[np.float64]
Lock = Callable[[float, Floats], Floats]
Fault = Callable[[float, dict[str, Floats]], None]


def twin_features(
    *,
    replicas: int,
    seconds: int,
    seed: int = 1,
    every_s: int = 5,
    fault: Fault | None = None,
    lock: Lock | None = None,
) -> Iterator[list[NodeFeatures]]:
    """Every `every_s` simulated seconds the features of all nodes (two engines of four GPUs each).

    `fault` may change the sampled columns of a second before the features are computed; `lock` gives each second's
    clock locks (0 = none).
    """
    twin = TwinCluster(
        replicas=replicas, workload=recorded_workload(replicas=replicas, seed=seed), params=variant(), seed=seed
    )
    stamps = np.zeros((twin.gpus, WIDTH), dtype=np.int64)
    columns = {name: np.full((twin.gpus, WIDTH), np.nan) for name in COLUMNS}
    free, limit = np.zeros(twin.gpus), np.full(twin.gpus, 700.0)
    for second in range(1, seconds + 1):
        twin.advance(1.0, sm_lock_mhz=free if lock is None else lock(float(second), free), limit_w=limit)
        sample = _sample(twin)
        if fault is not None:
            fault(float(second), sample)
        now_ns = T0_NS + second * 10**9
        stamps = np.roll(stamps, -1, axis=1)
        stamps[:, -1] = now_ns
        for name in COLUMNS:
            columns[name] = np.roll(columns[name], -1, axis=1)
            columns[name][:, -1] = sample[name]
        if second % every_s == 0:
            yield _nodes(twin, compute_all(Window(stamps, columns)), second, now_ns)


def _sample(twin: TwinCluster) -> dict[str, Floats]:
    tokens = np.repeat(twin.generation_tokens_total.astype(np.float64), PER_ENGINE) / PER_ENGINE
    return {
        "power_w": np.array(twin.power_w, dtype=np.float64),
        "energy_mj": np.array(twin.energy_mj, dtype=np.float64),
        "sm_mhz": twin.sm_mhz.astype(np.float64),
        "util_ratio": np.array(twin.util_ratio, dtype=np.float64),
        "temp_c": np.round(twin.temp_c),
        "throttle": twin.throttle.astype(np.float64),
        "tokens": tokens,
    }


def _nodes(twin: TwinCluster, features: dict[str, Floats], second: int, now_ns: int) -> list[NodeFeatures]:
    out = []
    for node in range(twin.replicas // 2):
        gpus = slice(8 * node, 8 * node + 8)
        uuids = tuple(f"GPU-n{node}-{i}" for i in range(8))
        out.append(
            NodeFeatures(
                cluster="c1",
                node=f"n{node}",
                boot_id="b",
                seq=second,
                window_end_ns=now_ns,
                emitted_ns=now_ns,
                quality="simulated",
                uuid=uuids,
                features={
                    name: tuple(None if np.isnan(v) else float(v) for v in values[gpus])
                    for name, values in features.items()
                },
                name=(H100,) * 8,
                engines=tuple(
                    EngineReading(
                        engine=f"n{node}-e{k}",
                        kind="twin",
                        stack=STACK,
                        workload="chat",
                        gpu_uuid=uuids[4 * k : 4 * k + 4],
                        ts_ns=now_ns,
                        running=int(twin.running[2 * node + k]),
                        prompt_tokens_total=int(twin.prompt_tokens_total[2 * node + k]),
                        generation_tokens_total=int(twin.generation_tokens_total[2 * node + k]),
                    )
                    for k in (0, 1)
                ),
            )
        )
    return out
