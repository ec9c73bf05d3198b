"""A process is known by its pid and its start; nothing else with that pid is ever touched."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from agents.cli.brokers import processes
from agents.cli.brokers.info import BrokerInfo

SLEEPER = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]


def _mark(pid: int) -> str:
    mark = processes.start_mark(pid)
    assert mark is not None
    return mark


def test_a_spawned_process_has_its_own_session_and_ends_by_its_pid(tmp_path: Path) -> None:
    pid = processes.spawn(SLEEPER, tmp_path / "log")
    mark = _mark(pid)
    assert os.getsid(pid) == pid
    assert processes.alive(pid, mark)
    assert processes.end(pid, mark)
    assert processes.start_mark(pid) is None


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pid = processes.spawn(DEAF, log)
    mark = _mark(pid)
    assert processes.wait_until(lambda: "deaf" in log.read_text(), 10)
    assert processes.end(pid, mark, grace_s=0.2)
    assert not processes.alive(pid, mark)


def test_a_stopped_process_ends_too(tmp_path: Path) -> None:
    pid = processes.spawn(SLEEPER, tmp_path / "log")
    mark = _mark(pid)
    os.kill(pid, signal.SIGSTOP)
    assert processes.end(pid, mark)


def test_a_reused_pid_is_a_stranger_and_spared(tmp_path: Path) -> None:
    pid = processes.spawn(SLEEPER, tmp_path / "log")
    mark = _mark(pid)
    try:
        assert not processes.alive(pid, "another start")
        assert processes.end(pid, "another start"), "the process that was meant is gone"
        assert processes.alive(pid, mark), "the stranger with its pid lives on"
    finally:
        processes.end(pid, mark)


def test_a_killed_child_counts_as_dead_before_anybody_waits_for_it(tmp_path: Path) -> None:
    pid = processes.spawn(SLEEPER, tmp_path / "log")
    mark = _mark(pid)
    os.kill(pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not processes.alive(pid, mark), 5)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        processes.spawn(["no-such-program"], tmp_path / "log")


def test_a_taken_port_is_replaced_by_a_free_one() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        assert processes.free_port(taken) != taken
    assert processes.free_port(taken) == taken


def test_wait_until_gives_up_at_its_bound() -> None:
    ticks = iter(range(100))
    assert not processes.wait_until(lambda: False, 0.0, clock=lambda: float(next(ticks)))


def test_broker_json_round_trip_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "broker" / "broker.json"
    info = BrokerInfo("127.0.0.1:1", "kafka-jars", "label", 7, "folder", 9, "mark", None)
    info.save(path)
    assert BrokerInfo.load(path) == info
    for damage in ("", "{", "[]", '{"bootstrap": "x"}', "null"):
        path.write_text(damage)
        assert BrokerInfo.load(path) is None
    path.unlink()
    assert BrokerInfo.load(path) is None
