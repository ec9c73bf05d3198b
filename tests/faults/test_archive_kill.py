"""kill -9 of the archive job at each of its failpoints, with readers at the archive all the time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import duckdb
import pytest

from streams.sinks import archive_reader, parquet
from tests.fakes import archive as fake
from tests.fakes.archive_rig import rows_of

PLAN = [
    ("archive.mid_rowgroup", 1),
    ("archive.before_footer", 2),
    ("archive.before_rename", 3),
    ("archive.after_rename_before_commit", 1),
    ("archive.after_rename_before_commit", 3),
    ("archive.mid_rowgroup", 4),
    ("archive.before_rename", 1),
    ("archive.after_rename_before_commit", 4),
]
STEP_S = 20


def run(folder: Path, seconds: int, failpoint: str = "") -> int:
    env = {**os.environ, "EO_FAILPOINT": failpoint}
    command = [sys.executable, "-m", "tests.faults.archive_driver", str(folder), str(seconds)]
    return subprocess.run(command, env=env, timeout=60, check=False).returncode


class Reader(threading.Thread):
    """Counts rows over and over; a query that fails or a count that falls is a fault."""

    def __init__(self, archive: Path) -> None:
        super().__init__()
        self._archive = archive
        self.over = threading.Event()
        self.counts: list[int] = []
        self.faults: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            try:
                opened = archive_reader.open_reader(self._archive, only=["telemetry_node"])
                [(count, _)] = opened.connection.execute("SELECT count(*), sum(power_w) FROM telemetry_node").fetchall()
            except (duckdb.Error, OSError) as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                return
            self.faults += [f"{path} left out: {why}" for path, why in opened.left_out]
            self.counts.append(count)


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path / "data" / "archive")


def test_kill_at_every_failpoint_loses_and_doubles_nothing_while_it_is_read(tmp_path: Path, reader: Reader) -> None:
    reader.start()
    try:
        for number, (name, nth) in enumerate(PLAN, 1):
            assert run(tmp_path, number * STEP_S, f"{name}:kill:{nth}") == -signal.SIGKILL, f"{name} was not reached"
        assert run(tmp_path, (len(PLAN) + 1) * STEP_S) == 0
    finally:
        reader.over.set()
        reader.join()
    assert reader.faults == []
    assert reader.counts == sorted(reader.counts) and len(reader.counts) > 3
    archive = tmp_path / "data" / "archive"
    seconds = (len(PLAN) + 1) * STEP_S
    expected = Counter({(node, second): 1 for second in range(seconds) for node in fake.NODES})
    assert Counter(rows_of(archive, "host.reading", "node, seq")) == expected
    gpus = {"node-a": 4, "node-b": 3}
    per_gpu = Counter({(node, second): gpus[node] for node, second in expected})
    assert Counter(rows_of(archive, "telemetry.node", "node, seq")) == per_gpu
    assert Counter(rows_of(archive, "features.gpu", "node, seq")) == per_gpu
    assert len(rows_of(archive, "engine.reading", "seq")) == seconds * 3
    assert list((archive / parquet.TEMPORARY).iterdir()) == []
