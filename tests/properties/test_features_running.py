"""Running windows give the numbers of whole windows, bit by bit, whatever clocks, gaps and counters do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.features.registry import compute_all
from models.features.running import MOST_AT_ONCE, Running
from models.features.window import COLUMNS, Floats, Ints, of_series

S = 1_000_000_000
T0 = 1_760_000_000 * S
STEPS_NS = (0, S // 10, S, S, S, S, 30 * S, 61 * S, -S, -50 * S, -3600 * S, 3600 * S)


class Gpu:
    """One GPU's series as it grows."""

    def __init__(self, rng: np.random.Generator, row: int) -> None:
        self.rng, self.row = rng, row
        self.ts: list[int] = []
        self.values: dict[str, list[float]] = {name: [] for name in COLUMNS}

    def grow(self, step_ns: int, unknown: float) -> None:
        rng = self.rng
        self.ts.append((self.ts[-1] if self.ts else T0) + step_ns)
        energy = self.values["energy_mj"][-1] if self.values["energy_mj"] else 0.0
        energy = 0.0 if np.isnan(energy) or rng.random() < 0.02 else energy
        drawn = {
            "power_w": rng.uniform(0, 700),
            "energy_mj": energy + rng.uniform(0, 700_000),
            "sm_mhz": float(rng.integers(300, 1980)),
            "util_ratio": rng.choice([0.0, 0.02, 0.05, 0.5, 1.0]),
            "temp_c": rng.uniform(20, 90),
            "throttle": float(rng.integers(0, 0x200)),
            "tokens": len(self.ts) * rng.uniform(5, 6),
        }
        for name, value in drawn.items():
            broken = rng.choice([np.nan, np.nan, 1e300, np.inf])
            self.values[name].append(broken if rng.random() < unknown else float(value))


def chunks(gpus: list[Gpu], steps: list[int], unknown: float, size: int) -> Iterator[list[Gpu]]:
    rng = gpus[0].rng
    pending: list[Gpu] = []
    for step in steps:
        gpu = gpus[int(rng.integers(len(gpus)))]
        gpu.grow(step, unknown)
        pending.append(gpu)
        if len(pending) == size:
            yield pending
            pending = []
    if pending:
        yield pending


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.lists(st.sampled_from(STEPS_NS), min_size=1, max_size=300),
    number=st.integers(1, 5),
    size=st.integers(1, MOST_AT_ONCE),
    unknown=st.sampled_from([0.0, 0.05, 0.6]),
)
def test_running_windows_equal_whole_windows(
    seed: int, steps: list[int], number: int, size: int, unknown: float
) -> None:
    check(seed, steps, number, size, unknown)


@pytest.mark.parametrize("seed", range(6))
def test_long_calm_series_with_one_jump(seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = [S] * 400
    steps[int(rng.integers(80, 300))] = int(rng.choice([-7200 * S, -30 * S, 7200 * S]))
    check(seed, steps, 2, 1 + seed * 9, 0.1)


def check(seed: int, steps: list[int], number: int, size: int, unknown: float) -> None:
    running = Running()
    rng = np.random.default_rng(seed)
    gpus = [Gpu(rng, running.row()) for _ in range(number)]
    seen = dict.fromkeys(range(number), 0)
    for part in chunks(gpus, steps, unknown, size):
        rows = np.array([gpu.row for gpu in part], np.intp)
        places = []
        for gpu in part:
            places.append((gpu, seen[gpu.row]))
            seen[gpu.row] += 1
        ts: Ints = np.array([gpu.ts[at] for gpu, at in places], np.int64)
        columns: dict[str, Floats] = {name: np.array([gpu.values[name][at] for gpu, at in places]) for name in COLUMNS}
        found = compute_all(running.append(rows, ts, columns))
        for gpu in set(part):
            series = {name: np.array(values) for name, values in gpu.values.items()}
            whole = compute_all(of_series(np.array(gpu.ts, np.int64), series))
            mine = [index for index, (owner, _) in enumerate(places) if owner is gpu]
            at = [places[index][1] for index in mine]
            for name, values in found.items():
                assert values[mine].tobytes() == whole[name][at].tobytes(), (name, at)


def test_a_cleared_row_begins_anew_and_others_do_not() -> None:
    running = Running()
    rows = np.array([running.row(), running.row()], np.intp)
    for second in range(100):
        found = running.append(rows, np.full(2, T0 + second * S), {name: np.full(2, float(second)) for name in COLUMNS})
    running.clear(rows[:1])
    found = running.append(rows, np.full(2, T0 + 100 * S), {name: np.full(2, 100.0) for name in COLUMNS})
    assert found.sum("n:power_w").tolist() == [1, 60]
    assert found.sum("power_w").tolist() == [100_000_000, sum(range(41, 101)) * 1_000_000]


def test_more_rows_than_the_first_arrays_hold() -> None:
    running = Running()
    rows = np.array([running.row() for _ in range(1000)], np.intp)
    for second in range(3):
        found = running.append(rows, np.full(1000, T0 + second * S), {name: np.arange(1000.0) for name in COLUMNS})
    assert found.sum("n:power_w").tolist() == [3] * 1000
    assert found.sum("power_w").tolist() == [3 * index * 1_000_000 for index in range(1000)]
