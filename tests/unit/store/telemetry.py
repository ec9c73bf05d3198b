"""Telemetry with gaps, for the tests that compute features twice."""

from __future__ import annotations

import numpy as np

from streams.contract import records as r
from tests.unit.store.makers import T0, S


def gpu_names(prefix: str = "GPU") -> tuple[str, str, str]:
    return f"{prefix}-a", f"{prefix}-b", f"{prefix}-c"


GPUS = gpu_names()


def telemetry(
    seq: int,
    generator: np.random.Generator,
    *,
    node: str = "n1",
    boot_id: str = "boot",
    ts_ns: int | None = None,
    prefix: str = "GPU",
) -> r.NodeTelemetry:
    """One node second with gaps: counters that rise, floats with many digits, values missing here and there."""

    names = gpu_names(prefix)

    def column(low: float, high: float) -> tuple[float | None, ...]:
        return tuple(None if generator.random() < 0.1 else float(generator.uniform(low, high)) for _ in names)

    gpu = r.GpuColumns(
        uuid=names,
        power_w=column(60, 700),
        energy_mj=tuple(10**12 + seq * 350_000 + int(generator.integers(0, 9999)) for _ in names),
        sm_mhz=tuple(int(generator.integers(200, 1980)) for _ in names),
        util_ratio=column(0, 1),
        temp_c=column(30, 80),
        throttle=tuple(int(generator.choice([0, 1, 4, 8, 64])) for _ in names),
    )
    engines = [("e0", names[:2], seq * 613), ("e1", names[1:2], None if seq % 3 else seq * 99), ("e2", names[:1], None)]
    readings = tuple(
        r.EngineReading(
            engine=name, kind="twin", stack="s", workload="w", gpu_uuid=gpus, ts_ns=0, generation_tokens_total=total
        )
        for name, gpus, total in engines
    )
    return r.NodeTelemetry(
        cluster="c",
        node=node,
        boot_id=boot_id,
        seq=seq,
        ts_ns=T0 + seq * S if ts_ns is None else ts_ns,
        source=("twin",),
        quality="simulated",
        gpu=gpu,
        engines=readings,
    )


def shares(record: r.NodeTelemetry) -> dict[str, float]:
    """Tokens of each GPU: its share of the last engine that knows them."""
    return {
        uuid: engine.generation_tokens_total / len(engine.gpu_uuid)
        for engine in record.engines
        for uuid in engine.gpu_uuid
        if engine.generation_tokens_total is not None
    }


def as_bytes(value: float | None) -> bytes:
    """The exact double; every NaN and null is one unknown."""
    return b"unknown" if value is None or np.isnan(value) else np.float64(value).tobytes()
