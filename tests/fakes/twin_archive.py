"""An archive whose truth is known: one node of twin engines, run at default or under a strategy, written as records.

Named faults are arguments: `silent` seconds without a message, `without` histograms or counters left out, `restart` a
second at which the engines' counters begin again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from agents.cli.whatif_policy import PooledTargets
from models.control.profiles import profile_for
from models.policy.strategies import strategy
from models.twin.cluster import TwinCluster
from models.twin.params import SensorParams, TwinParams
from models.twin.workload import Workload, replay
from models.whatif.control import StrategyControl
from models.whatif.replay import Readings
from models.whatif.series import KINDS, Array, Hits, Kind, Machine, Series
from streams.contract import histogram
from streams.contract import records as r
from tests.fakes import archive as plain

START_NS = plain.START_NS
STACK = plain.STACK
GPUS = 4
WARM_S = 30.0
_COUNTERS = ("prompt_tokens_total", "generation_tokens_total", "requests_total")


@dataclass(slots=True)
class Truth:
    """What really happened."""

    power_w: Array  # [E, T] mean of one GPU
    records: list[r.Record] = field(default_factory=list)

    def mean_w(self, first: int = 0) -> float:
        return float(self.power_w[:, first:].mean())


def load(engines: int, *, seed: int, per_s: float = 3.5, seconds: float = 400.0) -> Workload:
    """Poisson arrivals with log-normal lengths, short answers so that a minute settles."""
    rng = np.random.default_rng(seed)
    count = int(per_s * seconds)
    arrival = np.sort(rng.random(count) * seconds)
    prompt = np.clip(rng.lognormal(6.5, 0.7, count), 16, 4000).astype(np.int64)
    output = np.clip(rng.lognormal(4.8, 0.6, count), 4, 800).astype(np.int64)
    return replay(arrival, prompt, output, replicas=engines, seed=seed, thin=1.0)


def run(
    params: TwinParams,
    *,
    engines: int = 3,
    seconds: int = 75,
    name: str | None = None,
    seed: int = 5,
    work: Workload | None = None,
    stack: str = STACK,
) -> Truth:
    """Runs the cluster under a strategy (None = default clocks); the same seed gives the same requests."""
    work = load(engines, seed=seed) if work is None else work
    one = 0.5
    quiet = TwinParams(stack=params.stack, sensor=SensorParams(window_s=one, period_s=one))
    twin = TwinCluster(replicas=engines, gpus_per_replica=GPUS, workload=work, params=quiet, seed=seed)
    device = params.stack.device
    free, limit = np.zeros(engines), np.full(engines, device.limit_default_w)
    twin.advance(WARM_S, sm_lock_mhz=np.repeat(free, GPUS), limit_w=np.repeat(limit, GPUS))
    for engine in range(engines):
        twin.take_histograms(engine)
    control = None if name is None else _control(params, engines, name, stack)
    truth = Truth(np.zeros((engines, seconds)))
    before = twin.energy_mj
    for second in range(seconds):
        for _ in range(2):
            lock, limit = (free, limit) if control is None else control.decide(float(second))
            twin.advance(one, sm_lock_mhz=np.repeat(lock, GPUS), limit_w=np.repeat(limit, GPUS))
        readings: Readings = [twin.take_histograms(engine) for engine in range(engines)]
        if control is not None:
            control.reading(float(second + 1), twin, readings)
        truth.power_w[:, second] = (twin.energy_mj - before).reshape(engines, GPUS).mean(axis=1) / 1e3
        before = twin.energy_mj
        truth.records.append(_telemetry(twin, readings, second, lock=lock, limit=limit, stack=stack))
        if name is not None and second % 5 == 0:
            truth.records.append(_desired(second, engines, name))
    return truth


def write(
    archive: Path,
    truth: Truth,
    *,
    silent: range = range(0),
    without: frozenset[str] = frozenset(),
    restart: int | None = None,
) -> Path:
    """The records as files, with the faults that are asked for."""
    kept: list[r.Record] = []
    for record in truth.records:
        if isinstance(record, r.NodeTelemetry):
            second = (record.ts_ns - START_NS) // 10**9
            if second in silent:
                continue
            engines = tuple(_faulty(one, second, without, restart) for one in record.engines)
            record = msgspec.structs.replace(record, engines=() if "engines" in without else engines)
        kept.append(record)
    plain.write(archive, kept)
    return archive


def coarser(truth: Truth, every: int) -> Truth:
    """The same told every so many seconds: counters of the last of them, histograms of all."""
    telemetry = [record for record in truth.records if isinstance(record, r.NodeTelemetry)]
    told: list[r.Record] = []
    for last in range(every - 1, len(telemetry), every):
        span = telemetry[last - every + 1 : last + 1]
        engines = tuple(
            msgspec.structs.replace(
                one, **{kind: _merged([getattr(row.engines[place], kind) for row in span]) for kind in KINDS}
            )
            for place, one in enumerate(span[-1].engines)
        )
        told.append(msgspec.structs.replace(span[-1], engines=engines))
    return Truth(truth.power_w, told)


def _merged(histograms: list[r.Histogram]) -> r.Histogram:
    counts = sorted(histogram.pool(histograms).items())
    total_ms = sum(one.sum_ms for one in histograms)
    return r.Histogram(
        index=tuple(place for place, _ in counts), count=tuple(hits for _, hits in counts), sum_ms=total_ms
    )


def all_held(record: r.Record) -> r.Record:
    """An envelope with every GPU in the hold-out; other records as they are."""
    if not isinstance(record, r.PowerDesired):
        return record
    held = msgspec.structs.replace(record.gpu, holdout=(True,) * len(record.gpu.uuid))
    return msgspec.structs.replace(record, gpu=held)


def _faulty(one: r.EngineReading, second: int, without: frozenset[str], restart: int | None) -> r.EngineReading:
    one = msgspec.structs.replace(one, **dict.fromkeys(without & set(one.__struct_fields__)))
    if restart is None or second < restart:
        return one
    begun = {name: (getattr(one, name) or 0) % 50_000 for name in _COUNTERS}
    return msgspec.structs.replace(one, **begun)


def _control(params: TwinParams, engines: int, name: str, stack: str) -> StrategyControl:
    bounds = strategy(name)
    series = hollow(params, engines, stack)
    targets = PooledTargets(series, bounds, window_s=120.0, reference=None)
    return StrategyControl(series, profile_for(stack), bounds, targets=targets, interval_s=5.0)


def hollow(params: TwinParams, engines: int, stack: str = STACK) -> Series:
    """A series without a slot: names and bounds only."""
    device, none = params.stack.device, np.zeros(0, dtype=np.int64)
    empty = np.zeros((engines, 0))
    hits: dict[Kind, Hits] = {kind: Hits(none, none, none, none) for kind in KINDS}
    machine = Machine(
        device.name, GPUS, device.fmax_mhz, device.limit_default_w, device.limit_min_w, device.limit_max_w
    )
    names = tuple(f"node-a/r{engine}" for engine in range(engines))
    held, seams = np.zeros(engines, dtype=np.bool_), np.zeros(0, dtype=np.bool_)
    return Series(
        stack, "llm", machine, names, held, 1.0, none, seams, empty, empty, empty, empty, empty, empty, empty, hits
    )


def _telemetry(
    twin: TwinCluster, readings: Readings, second: int, *, lock: Array, limit: Array, stack: str
) -> r.NodeTelemetry:
    ts_ns = START_NS + second * 10**9
    uuids = tuple(f"GPU-{index}" for index in range(twin.gpus))
    engines = tuple(
        r.EngineReading(
            engine=f"node-a/r{engine}",
            kind="twin",
            stack=stack,
            workload="llm",
            gpu_uuid=uuids[engine * GPUS : (engine + 1) * GPUS],
            ts_ns=ts_ns,
            running=int(twin.running[engine]),
            waiting=int(twin.waiting[engine]),
            waiting_tokens=int(twin.waiting_tokens[engine]),
            kv_tokens=int(twin.kv_tokens[engine]),
            kv_use_ratio=float(twin.kv_use_ratio[engine]),
            prompt_tokens_total=int(twin.prompt_tokens_total[engine]),
            generation_tokens_total=int(twin.generation_tokens_total[engine]),
            requests_total=int(twin.requests_total[engine]),
            **{
                kind: r.Histogram(index=one.index, count=one.count, sum_ms=one.sum_ms)
                for kind, one in zip(KINDS, readings[engine], strict=True)
            },
        )
        for engine in range(twin.replicas)
    )
    locks = np.repeat(lock, GPUS)
    return r.NodeTelemetry(
        cluster="test",
        node="node-a",
        boot_id="boot-1",
        seq=second,
        ts_ns=ts_ns,
        source=("twin",),
        quality="simulated",
        engines=engines,
        gpu=r.GpuColumns(
            uuid=uuids,
            name=("NVIDIA H100 80GB HBM3",) * twin.gpus,
            power_w=tuple(twin.true_power_w.tolist()),
            energy_mj=tuple(twin.energy_mj.astype(np.int64).tolist()),
            limit_w=tuple(np.repeat(limit, GPUS).tolist()),
            sm_mhz=tuple(twin.sm_mhz.tolist()),
            sm_lock_mhz=tuple(int(one) or None for one in locks),
            util_ratio=tuple(twin.util_ratio.tolist()),
            throttle=tuple(twin.throttle.tolist()),
        ),
    )


def _desired(second: int, engines: int, name: str) -> r.PowerDesired:
    ts_ns, count = START_NS + second * 10**9, engines * GPUS
    return r.PowerDesired(
        cluster="test",
        node="node-a",
        epoch=1,
        seq=second,
        issued_at_ns=ts_ns,
        sample_ts_ns=ts_ns,
        ttl_ms=15_000,
        on_expiry="restore",
        mode="on",
        strategy=name,
        policy_version="1",
        reason="test",
        gpu=r.EnvelopeColumns(
            uuid=tuple(f"GPU-{index}" for index in range(count)),
            min_sm_mhz=(1200,) * count,
            max_sm_mhz=(1980,) * count,
            max_power_w=(None,) * count,
            engine=tuple(f"node-a/r{index // GPUS}" for index in range(count)),
            holdout=(False,) * count,
            reason=("test",) * count,
        ),
    )
