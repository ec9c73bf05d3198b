"""`eo explain`: the sentences, from topics' records and from the archive's rows alike."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.cli import explain_archive, explain_topics
from agents.cli.base import EoError
from agents.cli.explain_story import GpuStory, Story, text
from agents.cli.intents import duration_s
from streams.contract.records import EnvelopeColumns, LatencyTarget, PowerDesired
from tests.unit.jobs.support import T0_NS, ack

UUID = "GPU-n1-0"


def command(**more: object) -> PowerDesired:
    raw = PowerDesired(
        cluster="c1",
        node="n1",
        epoch=7,
        seq=3,
        issued_at_ns=T0_NS,
        sample_ts_ns=T0_NS,
        ttl_ms=15_000,
        on_expiry="restore",
        mode="on",
        strategy="balanced",
        policy_version="1",
        gpu=EnvelopeColumns(
            uuid=(UUID, "GPU-n1-1"),
            min_sm_mhz=(1200, None),
            max_sm_mhz=(1980, None),
            max_power_w=(665.0, None),
            engine=("e0", None),
            holdout=(False, True),
            reason=("Lowest clock that keeps the targets.", "Hold-out."),
        ),
        reason="",
        targets=(LatencyTarget(engine="e0", tbt_ms=47.25, ttft_ms=800.0),),
        cause=("intent-1",),
    )
    return msgspec.structs.replace(raw, **more)


def story(one: PowerDesired, *, after_s: float = 3.0) -> Story:
    gpus = [GpuStory("n1", uuid, command=explain_topics.command_row(one, i)) for i, uuid in enumerate(one.gpu.uuid)]
    return Story("c1", "topics", T0_NS + int(after_s * 1e9), 900, gpus)


def one_gpu(found: Story) -> str:
    found.gpus = found.gpus[:1]
    return text(found)


def test_a_granted_gpu_is_told_in_full() -> None:
    found = story(command())
    found.gpus[0].ack = explain_topics.ack_row(ack(command(), ts_ns=T0_NS + 10**8), 0)
    told = one_gpu(found)
    assert (
        "Command 7/3, issued 3.0 s ago in mode on, strategy balanced: clocks 1200-1980 MHz and at most 665 W." in told
    )
    assert "Why: Lowest clock that keeps the targets." in told
    assert "Shaped by: intent-1." in told
    assert "Latency targets (p99): between tokens 47.25 ms, first token 800 ms." in told
    assert "The lease runs 12 s more unless it is renewed; then the value found before us goes back." in told
    assert "The node answered: applied; read back: limit 665 W (700 W before us), no clock lock, 350 W drawn." in told
    assert "No anomaly in the last 15 min." in told


def test_a_lease_that_ended_and_no_answer() -> None:
    told = one_gpu(story(command(), after_s=100))
    assert "The lease ended 85 s ago: the value found before us goes back." in told
    assert "The node has not answered." in told


def test_advice_says_that_it_is_advice() -> None:
    assert "at most 665 W (advice only)." in one_gpu(story(command(mode="recommend")))


def test_without_a_command_it_says_what_mode_would() -> None:
    told = text(Story("c1", "topics", T0_NS, 900, [GpuStory("n1", UUID)]))
    assert "No command names it. Mode observe, the default, sends none; EO_MODE=recommend" in told


def test_events_verdicts_and_ledger_are_told() -> None:
    found = story(command())
    gpu = found.gpus[0]
    gpu.events = [explain_topics.ack_row(ack(command(), ts_ns=T0_NS, event="expiry", status="expired"), 0)]
    gpu.verdicts = [
        {"ts_ns": T0_NS, "verdict_id": "v1", "metric": "waste_w", "score": 9.0, "threshold": 8.0, "model": "robust_z",
         "action": "alert"}
    ]  # fmt: skip
    gpu.ledger = [
        {"closed_ns": T0_NS, "epoch": 7, "seq": 2, "status": "applied", "effect_w": -50.0, "power_before_w": 500.0,
         "power_after_w": 450.0, "tbt_p99_before_ms": 45.0, "tbt_p99_after_ms": 46.0}
    ]  # fmt: skip
    told = one_gpu(found)
    assert "3.0 s ago: expiry, expired." in told
    assert "Anomaly 3.0 s ago (v1): waste_w scored 9, threshold 8 (robust_z), so alert." in told
    assert "7/2 applied, 500 W before and 450 W after (-50 W), p99 between tokens 45.0 and 46.0 ms." in told


def test_a_node_is_a_table_and_its_reasons() -> None:
    told = text(story(command()))
    assert f"{UUID}  clocks 1200-1980 MHz and at most 665 W" in told
    assert "1 of 2 GPUs: Hold-out." in told and f"eo explain {UUID}" in told


def archived(folder: Path, dataset: str, rows: list[dict[str, object]]) -> None:
    path = folder / f"topic={dataset}" / "date=2026-01-01" / "hour=00"
    path.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), path / "p0-0-1.parquet")


def test_the_archive_tells_the_same(tmp_path: Path) -> None:
    who = {"cluster": "c1", "node": "n1", "uuid": UUID}
    row = explain_topics.command_row(command(), 0) | who
    archived(tmp_path, "power.desired", [{**row, "seq": 2, "max_power_w": 600.0}, row])
    archived(tmp_path, "power.applied", [explain_topics.ack_row(ack(command(), ts_ns=T0_NS + 10**9), 0) | who])
    found = explain_archive.gather(tmp_path, "GPU-n1", cluster="c1", since_s=900)
    told = text(found)
    assert "told from the archive" in told and "Command 7/3" in told and "at most 665 W" in told
    assert "The node answered: applied" in told
    assert explain_archive.gather(tmp_path, "n1", cluster="c1", since_s=900).as_dict() == found.as_dict()


def test_the_archive_says_when_it_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(EoError, match="holds nothing of 'GPU-x' in cluster 'c1'"):
        explain_archive.gather(tmp_path, "GPU-x", cluster="c1", since_s=900)


@pytest.mark.parametrize(("said", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("30d", 2_592_000)])
def test_durations(said: str, seconds: int) -> None:
    assert duration_s(said) == seconds


@pytest.mark.parametrize("said", ["", "10", "0s", "-5m", "31d", "5 minutes", "1.5h"])
def test_odd_durations_are_refused(said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a time from 1s to 30d; write 90s"):
        duration_s(said)


def test_a_node_that_no_command_names_is_said_to_be_so() -> None:
    """Mode observe, the default: the node reports, and nobody has ever granted it anything."""
    story = Story("c", "topics", 10**18, 900, [])
    assert "No command names it. Mode observe, the default, sends none" in text(story)
