"""The supervisor restarts what ends, waits longer each time, and leaves no child behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.contract.layout import Layout
from streams.errors import StreamsError
from streams.jobs import registry
from streams.supervisor import Supervisor

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def until(done: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_child_that_ends_is_started_again_after_a_growing_pause(tmp_path: Path) -> None:
    supervisor = Supervisor(["a"], lambda job: [sys.executable, "-c", "raise SystemExit(3)"], layout=Layout(tmp_path))
    child = supervisor.children["a"]
    pauses = []
    now = 100.0
    for _ in range(8):
        supervisor.look(child, now)
        process = child.process
        assert process is not None
        process.wait(20)
        supervisor.look(child, now + 1)
        assert child.process is None
        pauses.append(child.next_s - (now + 1))
        supervisor.look(child, child.next_s - 0.01)
        assert child.process is None, "it was started before its pause was over"
        now = child.next_s
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_child_that_lived_long_starts_its_pauses_anew(tmp_path: Path) -> None:
    supervisor = Supervisor(["a"], lambda job: [sys.executable, "-c", ""], layout=Layout(tmp_path))
    child = supervisor.children["a"]
    child.failures = 5
    supervisor.look(child, 0.0)
    assert child.process is not None
    child.process.wait(20)
    supervisor.look(child, 61.0)
    assert child.next_s == 61.5


def test_end_stops_every_child_by_its_pid_and_kills_the_deaf(tmp_path: Path) -> None:
    deaf = [
        sys.executable,
        "-c",
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    ]
    supervisor = Supervisor(["a", "b"], lambda job: SLEEP if job == "a" else deaf, layout=Layout(tmp_path))
    for child in supervisor.children.values():
        supervisor.look(child, 0.0)
    pids = [child.process.pid for child in supervisor.children.values() if child.process]
    ignored = 1 << (signal.SIGTERM - 1)
    status = Path(f"/proc/{pids[1]}/status")
    until(lambda: int(status.read_text().split("SigIgn:")[1].split()[0], 16) & ignored != 0)
    assert supervisor.end(grace_s=0.5) is False
    assert all(gone(pid) for pid in pids)


SCRIPT = """
    import sys
    from pathlib import Path
    from streams.contract.layout import Layout
    from streams.supervisor import Supervisor
    folder = Path(sys.argv[1])
    def command(job):
        body = "import os,time; open(os.environ['NOTE'] + '-' + str(os.getpid()), 'w').close(); time.sleep(600)"
        return [sys.executable, "-c", body]
    env = {"NOTE": str(folder / "child")}
    sys.exit(Supervisor(["a", "b"], command, layout=Layout(folder), env=env, backoff_s=(0.05,)).run())
"""


def children(folder: Path) -> list[int]:
    return [int(path.name.split("-")[1]) for path in folder.glob("child-*")]


@pytest.fixture
def running(tmp_path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(Path.cwd())}, stderr=subprocess.DEVNULL)
    until(lambda: len(children(tmp_path)) == 2)
    return process


def test_sigterm_ends_the_supervisor_and_its_children(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    note = json.loads((tmp_path / "run" / "worker.json").read_text())
    assert (note["pid"], note["role"], note["jobs"]) == (running.pid, "supervisor", ["a", "b"])
    running.terminate()
    assert running.wait(20) == 0
    assert all(gone(pid) for pid in children(tmp_path))
    assert not (tmp_path / "run" / "worker.json").exists()


def test_a_killed_child_comes_back(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    os.kill(children(tmp_path)[0], signal.SIGKILL)
    until(lambda: len(children(tmp_path)) == 3)
    running.terminate()
    assert running.wait(20) == 0
    assert all(gone(pid) for pid in children(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux only")
def test_children_end_when_the_supervisor_is_killed(running: subprocess.Popen[bytes], tmp_path: Path) -> None:
    running.kill()
    running.wait(20)
    until(lambda: all(gone(pid) for pid in children(tmp_path)))


def test_every_registered_job_can_be_made_and_names_itself() -> None:
    for name in registry.JOBS:
        job = registry.create(name)
        assert job.name == name
        assert job.topics


def test_an_unknown_job_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(StreamsError, match="'feature' is not a job; did you mean 'features'"):
        registry.resolve("feature")
    with pytest.raises(StreamsError, match="the jobs are features, anomaly, actuation, archive, ledger"):
        registry.resolve("zzz")
