"""What the demo says of its training jobs: counted from records, each job against its own default."""

from __future__ import annotations

import pytest

from agents.cli import demo_training
from agents.cli.main import main
from agents.cli.stack import Plan, _training
from streams.contract.codec import encode
from streams.contract.records import EngineControl, EngineReading, GpuColumns, Histogram, NodeTelemetry

T0 = 1_700_000_000_000_000_000


def record(
    seq: int, step_s: float, watts: float | None, *, state: str = "searching", lock: int | None = None,
    limit_w: float = 700.0, kind: str = "training", steps: int = 3,
) -> bytes:  # fmt: skip
    engine = EngineReading(
        engine="sim-004/train", kind=kind, stack="s", workload="training", gpu_uuid=("a", "b"), ts_ns=T0,
        e2e=Histogram(index=(1,), count=(steps,), sum_ms=steps * step_s * 1e3) if steps else Histogram(),
        control=EngineControl(state=state),
    )  # fmt: skip
    gpu = GpuColumns(
        uuid=("a", "b", "c"), power_w=(watts, watts, 1.0), sm_lock_mhz=(lock, lock, 300),
        limit_w=(limit_w, limit_w, 9.0), limit_default_w=(700.0,) * 3,
    )  # fmt: skip
    return encode(
        NodeTelemetry(
            cluster="demo",
            node="sim-004",
            boot_id="b",
            seq=seq,
            ts_ns=T0 + seq * 10**9,
            source=("twin",),
            quality="simulated",
            gpu=gpu,
            engines=(engine,),
        )
    )


def told(**chosen: object) -> list[bytes | None]:
    """Twenty records at default, some that try a setting, twenty at the choice, all with a little noise."""
    noise = [3.0 if k == 9 else 1.0 + 0.005 * (k * 7 % 5 - 2) for k in range(20)]  # one loads data
    rows = [record(k, 1.0 * noise[k], 600.0) for k in range(20)]
    rows += [record(20 + k, 5.0, 100.0, lock=1200) for k in range(6)]
    return [*rows, *(record(30 + k, 1.03 * noise[k], 500.0, state="chosen", **chosen) for k in range(20))]  # type: ignore[arg-type]


def test_steps_at_the_choice_are_set_against_the_jobs_own_default_steps() -> None:
    (row,) = demo_training.count([*told(lock=1605), None, b'{"kind":"other"}'])
    assert (row["job"], row["simulated"], row["sm_mhz"], row["limit_w"]) == ("sim-004/train", True, 1605, None)
    assert row["slowdown_ratio"] == pytest.approx(0.03, abs=4e-3)
    assert row["saving_ratio"] == pytest.approx(1.0 - 1.03 * 500.0 / 600.0, abs=4e-3)
    low, high = row["slowdown_interval"]
    assert low < row["slowdown_ratio"] < high and 0.005 < high - low < 0.03
    assert row["saving_interval"][0] < row["saving_ratio"] < row["saving_interval"][1]
    assert row["default_steps"] == 19 * 3  # the first record has none before it, so its setting may be new
    assert demo_training.sentence(row).startswith("sim-004/train: 1,605 MHz after 31 s; a step takes +")


def test_a_record_that_came_twice_counts_once_and_a_limit_is_a_choice_too() -> None:
    (row,) = demo_training.count([*told(limit_w=500.0), *told(limit_w=500.0)])
    assert (row["sm_mhz"], row["limit_w"], row["chosen_steps"]) == (None, 500.0, 57)
    assert "500 W after" in demo_training.sentence(row)


@pytest.mark.parametrize(
    "values",
    [
        [record(k, 1.0, 600.0) for k in range(30)],
        [record(k, 1.0, None, state="chosen", lock=1600) for k in range(30)],
        [record(k, 1.0, 600.0, steps=0) for k in range(30)],
        [*(record(k, 1.0, 600.0) for k in range(30)), *(record(40 + k, 1.0, 500.0, lock=1500) for k in range(30))],
    ],
)
def test_what_is_not_known_is_null_and_said(values: list[bytes]) -> None:
    (row,) = demo_training.count(values)
    assert row["slowdown_ratio"] is row["saving_ratio"] is row["saving_interval"] is None
    assert "nothing chosen yet" in demo_training.sentence(row)


def test_a_job_of_the_hold_out_is_said_to_be_one() -> None:
    (row,) = demo_training.count([record(k, 1.0, 600.0) for k in range(30)], {"sim-004/train"})
    assert row["held_out"] and "held out for ever" in demo_training.sentence(row)
    assert "--training 2" in demo_training.sentence(row)


def test_engines_that_serve_are_nobodys_training() -> None:
    assert demo_training.count([record(k, 1.0, 600.0, kind="twin") for k in range(30)]) == []


def test_the_fleet_is_told_which_nodes_train_and_a_demo_that_serves_nobody_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _training(Plan()) == ()
    assert _training(Plan(training=2, training_knob="power"))[:2] == ("--training=2", "--training-knob=power")
    assert main(["demo", "--nodes", "2", "--training", "2"]) == 2
    assert "--training 2 is not 0 to 1; one of the nodes must serve" in capsys.readouterr().err
