"""What one step of the node's fast loop costs: `python -m tests.bench.bench_node_step [--write FILE]`.

CPU time of this process. The local controller alone (with and without the chunk lever, watching), the training session,
and a whole round of the control loop over a node with two engines and a capper in memory. Loads vary from step to step,
so that set points are sought as often as in service. Simulated loads, real code.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from agents.node.control_loop import ControlLoop
from models.control.controller import ClockBounds, EngineState, LocalController, Observed, Targets
from models.control.profiles import LLAMA_70B_H100X4
from models.control.training_session import Session, Unit, clocks
from streams.contract.records import Histogram
from tests.fakes.sources import FakeCapper, desired, engine, telemetry

STEPS, STEP_S = 2000, 0.5
BOUND_US = 1000.0  # of a step of the local controller (issue: below 1 ms)
BOUNDS = ClockBounds(1188, 1980, 1980, 15)
TARGETS = Targets(tbt_ms=46.0, ttft_ms=700.0, e2e_ms=13_000.0)
Step = Callable[[int], object]


def loads(seed: int = 1) -> list[tuple[EngineState, Observed]]:
    """A load that wanders between idle and a full batch, with bursts in the queue."""
    rng, found, running = random.Random(seed), [], 8.0
    for _ in range(STEPS):
        running = min(120.0, max(0.0, running + rng.gauss(0.0, 2.0)))
        queue = int(rng.expovariate(1 / 400.0)) if rng.random() < 0.3 else 0
        gap = 22.0 + 0.12 * running + rng.gauss(0.0, 0.5)
        state = EngineState(0.1, int(running), int(queue > 0), queue, int(running * 1100))
        found.append((state, Observed(gap, 1700, 380.0, rng.choice([0.0, 800.0, 2500.0]), gap * 1.6)))
    return found


def local(*, chunk: tuple[int, int] | None) -> Step:
    controller, given = LocalController(LLAMA_70B_H100X4, chunk_range=chunk), loads()

    def step(number: int) -> object:
        state, seen = given[number]
        return controller.step(
            number * STEP_S, state, targets=TARGETS, bounds=BOUNDS, throttle=0, observed=seen
        )  # fmt: skip

    return step


def watching() -> Step:
    controller, given = LocalController(LLAMA_70B_H100X4), loads()
    bounds = ClockBounds(1980, 1980, 1980, 15)

    def step(number: int) -> object:
        state, seen = given[number]
        return controller.watch(number * STEP_S, state, bounds=bounds, observed=seen)

    return step


def training() -> Step:
    session, rng = Session(clocks(1188, 1980, 15), reference=1980.0, bound=0.05, run_steps=20_000), random.Random(1)
    return lambda _: session.feed(Unit(0.8 * (1980.0 / session.setting) ** 0.6 * (1 + rng.gauss(0, 0.02)), 2.0, 4000.0))


def whole_round() -> Step:
    """Two engines of four GPUs, a lease renewed every five seconds."""
    now = [0.0]
    loop = ControlLoop("n1", FakeCapper(), monotonic=lambda: now[0], wall_ns=lambda: int(now[0] * 1e9))
    given = [loads(1), loads(2)]

    def step(number: int) -> object:
        now[0] = number * STEP_S
        if number % 10 == 0:
            loop.on_command(desired(number + 1), 0)
        ts_ns = int(now[0] * 1e9)
        fresh = []
        for slot in (0, 1):
            state, seen = given[slot][number]
            tbt = Histogram(index=(150, 160), count=(90, 10), sum_ms=100 * (seen.tbt_mean_ms or 0.0))
            fresh.append(
                engine(
                    slot, ts_ns=ts_ns, running=state.running, waiting_tokens=state.waiting_tokens,
                    kv_tokens=state.kv_tokens, prompt_tokens_total=number * 500, tbt=tbt,
                )
            )  # fmt: skip
        return loop.step(now[0], telemetry(ts_ns, engines=tuple(fresh)), fresh)

    return step


CASES: dict[str, tuple[str, Callable[[], Step]]] = {
    "local controller": ("one engine, half a second", lambda: local(chunk=None)),
    "local controller with chunk lever": ("the same, chunk sizes 128 to 448", lambda: local(chunk=(128, 448))),
    "watching": ("one engine of which nothing is granted", watching),
    "training session": ("one unit of a training job", training),
    "control loop": ("a node's round, two engines, capper in memory", whole_round),
}


def measure(step: Step) -> tuple[float, float, float]:
    """(mean, median, 99th percentile) in microseconds of CPU."""
    spent = []
    for number in range(STEPS):
        begun = time.thread_time_ns()
        step(number)
        spent.append((time.thread_time_ns() - begun) / 1e3)
    spent.sort()
    return statistics.fmean(spent), spent[STEPS // 2], spent[int(0.99 * STEPS)]


def table() -> str:
    lines = [
        "# What a step of the node's fast loop costs\n",
        f"`python -m tests.bench.bench_node_step`; {platform.machine()}, Python {platform.python_version()}, "
        f"{STEPS:,} steps each, CPU time. A shared machine moves these.\n",
        "| step | what | mean us | median us | p99 us | share of 1 ms (mean) |",
        "|---|---|---|---|---|---|",
    ]
    for name, (what, make) in CASES.items():
        mean, middle, tail = measure(make())
        lines.append(f"| {name} | {what} | {mean:.0f} | {middle:.0f} | {tail:.0f} | {mean / BOUND_US:.2f} |")
    lines.append(
        "\nThe set point is sought anew every two seconds, which is what the p99 shows. For a node of two engines, "
        "twice a second, that is a twentieth of a percent of a core."
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, default=None, help="write the table to a file")
    args = parser.parse_args()
    text = table()
    if args.write is not None:
        args.write.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
