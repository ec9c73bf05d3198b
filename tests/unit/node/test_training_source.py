"""A training job's text, its settings, and what the drive makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.node.engine_drive import Situation
from agents.node.engine_settings import from_tables, from_text
from agents.node.engine_signal import Columns
from agents.node.errors import SettingsError, SourceError
from agents.node.sources.engines.poll import EnginesSource
from agents.node.sources.engines.training import TrainingSource
from agents.node.training_drive import TrainingDrive
from models.control.types import ClockBounds, Targets
from streams.contract.records import EngineReading, Histogram
from tests.fakes.sources import UUIDS, gpu_columns, telemetry

DATA = Path(__file__).parents[2] / "data" / "engines" / "training_metrics.txt"
S = 10**9
BOUNDS = ClockBounds(1200, 1980, 1980, 15)


def test_a_job_says_steps_their_durations_and_waits() -> None:
    [engine] = TrainingSource(file=DATA, since_start=True).read(S).engines
    assert (engine.kind, engine.stack, engine.requests_total) == ("training", "bert/training", 1200)
    assert engine.e2e is not None and (sum(engine.e2e.count), engine.e2e.sum_ms) == (1200, 512_400.0)
    assert engine.tbt is not None and engine.tbt.sum_ms == 31_500.0
    assert (engine.running, engine.ttft, engine.kv_tokens) == (None, None, None)


def test_durations_count_since_the_reading_before_and_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "train.prom"
    source = TrainingSource(file=path)

    def read(at: int, count: int, seconds: float) -> Histogram | None:
        path.write_text(f"eo_training_step_seconds_sum {seconds}\neo_training_step_seconds_count {count}\n")
        [engine] = source.read(at * S).engines
        return engine.e2e

    assert read(1, 100, 50.0) is None
    second = read(2, 103, 51.8)
    assert second is not None and (sum(second.count), second.sum_ms) == (3, pytest.approx(1800.0))
    again = read(3, 2, 1.0)
    assert again is not None and (sum(again.count), again.sum_ms) == (2, pytest.approx(1000.0))


@pytest.mark.parametrize(
    "text",
    ["eo_training_step_seconds_sum NaN\neo_training_step_seconds_count 5\n",
     "eo_training_step_seconds_sum -4\neo_training_step_seconds_count 5\n",
     "eo_training_step_seconds_sum 4\neo_training_step_seconds_count 1e300\n",
     "eo_training_step_seconds_sum 4\n"],
)  # fmt: skip
def test_what_cannot_be_is_unknown(text: str, tmp_path: Path) -> None:
    (tmp_path / "t").write_text(text)
    [engine] = TrainingSource(file=tmp_path / "t", since_start=True).read(S).engines
    assert engine.e2e is None and engine.tbt is None


def test_another_text_is_refused_with_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("vllm:num_requests_running 3\n")
    with pytest.raises(SourceError, match="has no metrics of a training job among 0 samples; is it the"):
        TrainingSource(file=tmp_path / "t").read(S)


def test_the_agent_reads_a_file_and_knows_the_runs_length() -> None:
    [engine] = from_text(f"training file://{DATA} gpus=0,1 name=bert-0 steps=40000", "EO_NODE_ENGINE")
    assert engine.steps == "40000" and str(engine).endswith("name=bert-0 steps=40000")
    [same] = from_tables([{"kind": "training", "url": f"file://{DATA}", "name": "b", "steps": 5}], "x")
    assert same.steps == "5"
    source = EnginesSource([engine], background=False, at_once=True, wall_ns=lambda: S)
    assert [one.engine for one in source.read(S).engines] == ["bert-0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps": "many"}, "sets steps to 'many'; it is the length of a training job's run, a whole number from 1"),
        ({"steps": "0"}, "sets steps to '0'"),
        ({"kind": "vllm", "url": "http://h/metrics", "steps": "5"}, "sets steps to '5'"),
        ({"name": "", "steps": "5"}, "sets steps and no name; give the job a name, unique in the cluster"),
        ({"name": "", "group": "bert"}, "sets group to 'bert'; only a training job has one, and it needs a name of"),
        ({"kind": "vllm", "url": "http://h/m", "group": "bert"}, "sets group to 'bert'; only a training job has one"),
        ({"kind": "vllm"}, "has the address 'file:///run/t'; give one like"),
        ({"url": "file://run/t"}, ""),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_next_step(changes: dict[str, str], words: str) -> None:
    row = {"kind": "training", "url": "file:///run/t", "name": "b", **changes}
    if not words:
        assert from_tables([row], "x")  # a host in a file address: its path is what counts
        return
    with pytest.raises(SettingsError) as told:
        from_tables([row], "x")
    assert words in str(told.value)


# --- the drive ---


def job(ts_s: float, *, steps: int | None = None, e2e: Histogram | None = None) -> EngineReading:
    return EngineReading(
        engine="n1/train", kind="training", stack="s", workload="training", gpu_uuid=UUIDS, ts_ns=int(ts_s * S),
        requests_total=steps, e2e=e2e,
    )  # fmt: skip


def situation(engine: EngineReading, *, age_s: float = 0.1, bounds: ClockBounds | None = BOUNDS) -> Situation:
    energy = (int(engine.ts_ns / 1e9 * 400_000),) * 8
    columns = Columns(telemetry(engine.ts_ns, gpu=gpu_columns(energy_mj=energy)))
    return Situation(engine, columns, tuple(range(8)), age_s, bounds, Targets(None, None, None), 15)


def test_steps_can_be_timed_from_outside() -> None:
    drive = TrainingDrive(bound=0.05, run_steps=100_000)
    for half in range(200):
        drive.decide(half / 2, situation(job(half / 2, steps=half)))
    assert drive._step_s == pytest.approx(0.5)
    assert drive.report().state == "searching"


@pytest.mark.parametrize(
    "reading",
    [{"steps": -5}, {"steps": 10**15}, {"e2e": Histogram(index=(1,), count=(2**53,), sum_ms=0.0)},
     {"e2e": Histogram(index=(1,), count=(3,), sum_ms=float("nan"))}, {"e2e": Histogram(sum_ms=-1e300)}, {}],
)  # fmt: skip
def test_numbers_that_cannot_be_leave_default_clocks(reading: dict[str, object]) -> None:
    drive = TrainingDrive(bound=0.05)
    for half in range(100):
        decision = drive.decide(half / 2, situation(job(half / 2, **reading)))  # type: ignore[arg-type]
        assert decision.sm_mhz is None and decision.reason


def test_no_grant_and_old_numbers_are_default_clocks_with_their_reason() -> None:
    drive = TrainingDrive(bound=0.05)
    assert drive.decide(1.0, situation(job(1.0), bounds=None)).reason == "not every GPU of the engine is granted"
    told = drive.decide(2.0, situation(job(2.0), age_s=3.0))
    assert told.reason == "the job's numbers are 3.0 s old, bound 2 s: default clocks" and told.sm_mhz is None
    assert drive.decide(3.0, situation(job(3.0), age_s=float("nan"))).sm_mhz is None


def test_a_block_that_something_else_shaped_is_measured_again() -> None:
    drive, half = TrainingDrive(bound=0.05, run_steps=100_000), 0

    def steps(count: int, bounds: ClockBounds | None = BOUNDS) -> None:
        nonlocal half
        for _ in range(count):
            half += 1
            took = Histogram(index=(280,), count=(1,), sum_ms=500.0)
            drive.decide(half / 2, situation(job(half / 2, e2e=took), bounds=bounds))

    steps(60)
    session = drive._session
    assert session is not None and session.state == "measuring" and len(session._block) >= 3
    steps(1, bounds=None)
    assert session._block == [] and session.state == "measuring"
    steps(6)
    assert drive._session is session and 0 < len(session._block) + session._skipped <= 3
