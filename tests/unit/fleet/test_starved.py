"""A node short of CPU: slots that come late and in bunches, readings stamped before they were answered.

Neither is a change of the engine, so neither may look like drift; a true one must be found all the same. Virtual time
and the recorded load, whose long prompts make the length of a window count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import msgspec
import pytest

from agents.fleet.bank import Bank
from agents.fleet.fleet import SLOT_S
from agents.fleet.trace import recorded_workload
from models.twin.workload import Workload
from streams.contract.records import EngineReading
from tests.unit.fleet.conftest import NODES, Bench, make_bench
from tests.unit.fleet.test_drift import drifts, slower

LEASE_S = 2.0
ENGINES = 2 * NODES
Late = Callable[[Random], float]


def recorded(replicas: int) -> Workload:
    return recorded_workload(replicas=replicas, seed=1)


def on_time(rng: Random) -> Iterator[float]:
    while True:
        yield SLOT_S


def stalls(rng: Random) -> Iterator[float]:
    """A second or so without the CPU, then slots without a pause until the loop has caught up."""
    while True:
        yield from [SLOT_S] * rng.randint(5, 15)
        late_s = rng.uniform(0.5, 1.5)
        yield late_s
        yield from [0.02] * int((late_s - SLOT_S) / (SLOT_S - 0.02))


def slow(rng: Random) -> Iterator[float]:
    while True:
        yield 0.18


def never(rng: Random) -> float:
    return 0.0


def at_times(rng: Random) -> float:
    """A quarter of all answers take long; they carry the time of the question."""
    return rng.uniform(0.2, 0.9) if rng.random() < 0.25 else 0.0


def always(rng: Random) -> float:
    return rng.uniform(0.0, 0.8)


def stamped_late(monkeypatch: pytest.MonkeyPatch, late: Late) -> None:
    read = Bank._read

    def early(
        self: Bank, node: int, now_ns: int, reader: int, only: frozenset[str] | None = None
    ) -> tuple[EngineReading, ...]:
        found = read(self, node, now_ns, reader, only)
        off_ns = [int(late(Random(f"{e.engine} {now_ns} {reader}")) * 1e9) for e in found]
        return tuple(msgspec.structs.replace(e, ts_ns=now_ns - ns) for e, ns in zip(found, off_ns, strict=True))

    monkeypatch.setattr(Bank, "_read", early)


def run(bench: Bench, seconds: float, slots: Iterator[float]) -> None:
    """Time passes in slots of these lengths; leases are renewed on every node."""
    end_s, renew_s = bench.clock["s"] + seconds, 0.0
    while bench.clock["s"] < end_s:
        if bench.clock["s"] >= renew_s:
            for node in range(NODES):
                bench.command(node, bench.envelope(node))
            renew_s = bench.clock["s"] + LEASE_S
        bench.clock["s"] += next(slots)
        bench.fleet.step(wall_ns=bench.wall_ns(), mono_s=bench.clock["s"])


def judged(bench: Bench) -> list[float]:
    controls = [engine.control for record in bench.telemetry() for engine in record.engines]
    return [c.time_error_ratio for c in controls if c is not None and c.time_error_ratio is not None]


@pytest.mark.parametrize(
    ("slots", "late"), [(stalls, never), (slow, never), (on_time, at_times), (on_time, always), (stalls, at_times)]
)
def test_a_node_short_of_time_is_no_drift(
    slots: Callable[[Random], Iterator[float]], late: Late, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamped_late(monkeypatch, late)
    bench = make_bench(tmp_path, recorded)
    run(bench, 60.0, slots(Random(7)))
    assert drifts(bench.acks()) == []
    found = judged(bench)
    assert len(found) > 100  # what can be judged is
    assert sum(map(abs, found)) / len(found) < 0.03


@pytest.mark.parametrize("factor", [1.6, 1.3])
@pytest.mark.parametrize(
    ("slots", "late", "promised_s"), [(on_time, never, 2.0), (stalls, never, 2.0), (on_time, at_times, 3.0)]
)
def test_a_true_drift_is_found_on_a_node_short_of_time(
    slots: Callable[[Random], Iterator[float]],
    late: Late,
    promised_s: float,
    factor: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stamped_late(monkeypatch, late)
    bench = make_bench(tmp_path)  # the steady load: every engine has something to be judged by
    running = slots(Random(7))
    run(bench, 30.0, running)
    assert drifts(bench.acks()) == []
    slower(bench, factor)
    begun_ns = bench.wall_ns()
    run(bench, 12.0, running)
    after_s = sorted((ack.ts_ns - begun_ns) / 1e9 for ack in drifts(bench.acks()))
    assert len(after_s) == ENGINES
    assert after_s[-1] <= promised_s, after_s
