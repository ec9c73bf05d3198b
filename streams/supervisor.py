"""Keeps one child process per job: starts it, starts it again when it ends, and ends all with itself.

It holds no Kafka connection and knows nothing of what a job does. Children get SIGTERM when the supervisor is told to
stop, and from the kernel when it is killed, so that no worker outlives it unseen.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Final

from streams import run_note
from streams.contract.layout import Layout

POLL_S: Final = 0.1
BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
STEADY_S: Final = 60.0  # a child that lived this long starts its back-off anew
GRACE_S: Final = 15.0
PR_SET_PDEATHSIG: Final = 1
log = logging.getLogger(__name__)

Command = Callable[[str], Sequence[str]]


@dataclass(slots=True)
class Child:
    """One job's process now, and when the next one may start."""

    job: str
    process: subprocess.Popen[bytes] | None = None
    started_s: float = 0.0
    failures: int = 0
    next_s: float = 0.0


class Supervisor:
    """Runs `command(job)` for every job until told to stop."""

    def __init__(
        self,
        jobs: Sequence[str],
        command: Command,
        *,
        layout: Layout,
        env: Mapping[str, str] | None = None,
        backoff_s: Sequence[float] = BACKOFF_S,
    ) -> None:
        self.children = {job: Child(job) for job in jobs}
        self._command = command
        self._layout = layout
        self._env = dict(os.environ if env is None else env)
        self._backoff_s = tuple(backoff_s)
        self._stop = False

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Signal handler: ask `run` to end."""
        self._stop = True

    def run(self) -> int:
        """Supervises until SIGTERM or SIGINT; returns 0 when every child ended by itself in time, else 1."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.stop)
        note = run_note.write(self._layout, "worker", role="supervisor", jobs=list(self.children))
        try:
            while not self._stop:
                for child in self.children.values():
                    self.look(child, time.monotonic())
                time.sleep(POLL_S)
        finally:
            clean = self.end()
            run_note.forget(note)
        return 0 if clean else 1

    def look(self, child: Child, now_s: float) -> None:
        """Starts a child that is due; notes the end of one that has gone."""
        if child.process is None:
            if now_s >= child.next_s:
                self._start(child, now_s)
            return
        code = child.process.poll()
        if code is None:
            return
        lived_s = now_s - child.started_s
        child.failures = 1 if lived_s >= STEADY_S else child.failures + 1
        pause_s = self._backoff_s[min(child.failures, len(self._backoff_s)) - 1]
        child.process, child.next_s = None, now_s + pause_s
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        log.warning("worker %s ended with %s after %.1f s; starting again in %.1f s", child.job, how, lived_s, pause_s)

    def _start(self, child: Child, now_s: float) -> None:
        child.process = subprocess.Popen(
            list(self._command(child.job)), env=self._env, stdin=subprocess.DEVNULL, preexec_fn=_end_with_parent
        )
        child.started_s = now_s
        log.info("worker %s started, pid %d", child.job, child.process.pid)

    def end(self, grace_s: float = GRACE_S) -> bool:
        """SIGTERM to every child by its pid, SIGKILL after the grace time; True when none had to be killed."""
        living = [child for child in self.children.values() if child.process is not None]
        for child in living:
            if child.process is not None and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + grace_s
        clean = True
        for child in living:
            if child.process is not None:
                clean &= _wait(child.job, child.process, max(0.0, deadline - time.monotonic()))
                child.process = None
        return clean


def _wait(job: str, process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    try:
        process.wait(timeout_s)
        return True
    except subprocess.TimeoutExpired:
        log.error("worker %s did not end in time and is killed", job)
        process.kill()
        process.wait()
        return False


def _end_with_parent() -> None:
    """Runs in the child before exec: on Linux the kernel sends SIGTERM when the parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
