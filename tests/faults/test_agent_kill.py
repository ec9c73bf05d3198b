"""kill -9 of a real agent process at every named failpoint: nothing promised is lost, order is kept, loss counts 0."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from streams.contract.failpoints import NAMES
from streams.contract.topics import APPLIED, TELEMETRY

SAMPLES = 45
ROOT = Path(__file__).parents[2]
AGENT_NAMES = sorted(name for name in NAMES if name.startswith("agent."))


def run(folder: Path, failpoint: str = "") -> int:
    env = {**os.environ, "EO_FAILPOINT": failpoint, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.agent_driver", str(folder), str(SAMPLES)],
        env=env,
        cwd=ROOT,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode in {0, -signal.SIGKILL}, done.stderr
    return done.returncode


def journal(folder: Path, kind: str) -> list[list[str]]:
    lines = [line.split() for line in (folder / "journal.txt").read_text().splitlines()]
    return [words[1:] for words in lines if words[0] == kind]


def broker(folder: Path, topic: str) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (folder / "broker.jsonl").read_text().splitlines()]
    return [json.loads(line["value"]) for line in lines if line["topic"] == topic]


def firsts(values: list[tuple[str, int]]) -> list[tuple[str, int]]:
    return list(dict.fromkeys(values))


@pytest.mark.parametrize("nth", [1, 9])
@pytest.mark.parametrize("name", AGENT_NAMES)
def test_killed_at_a_failpoint_nothing_is_lost(tmp_path: Path, name: str, nth: int) -> None:
    assert run(tmp_path, f"{name}:kill:{nth}") == -signal.SIGKILL, f"{name} was not reached {nth} times"
    assert run(tmp_path) == 0

    promised = [(boot, int(seq)) for boot, seq in journal(tmp_path, "sample")]
    arrived = firsts([(str(r["boot_id"]), int(str(r["seq"]))) for r in broker(tmp_path, TELEMETRY.name)])
    assert set(promised) <= set(arrived)
    boots = list(dict.fromkeys(boot for boot, _ in arrived))
    assert arrived == sorted(arrived, key=lambda item: (boots.index(item[0]), item[1]))
    for boot in boots:
        seqs = [seq for b, seq in arrived if b == boot]
        assert seqs == list(range(1, len(seqs) + 1))

    acks = [int(str(r["seq"])) for r in broker(tmp_path, APPLIED.name)]
    assert {int(seq) for (seq,) in journal(tmp_path, "ack")} <= set(acks)
    assert set(acks) == set(range(1, max(acks) + 1))
    assert journal(tmp_path, "lost") == [["0"]]


def test_killed_again_and_again_nothing_is_lost(tmp_path: Path) -> None:
    plan = [f"{name}:kill:{nth}" for nth, name in enumerate(AGENT_NAMES, 3)]
    for failpoint in plan:
        run(tmp_path, failpoint)
    assert run(tmp_path) == 0
    promised = {(boot, int(seq)) for boot, seq in journal(tmp_path, "sample")}
    arrived = {(str(r["boot_id"]), int(str(r["seq"]))) for r in broker(tmp_path, TELEMETRY.name)}
    assert promised <= arrived
    assert {words[0] for words in journal(tmp_path, "lost")} == {"0"}
