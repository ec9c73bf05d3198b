"""Child processes of the demo and the benches: started, watched, restarted, measured, ended by the pid we kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
RESTART_PAUSE_S: Final = 1.0


@dataclass(slots=True)
class Child:
    """One role and its current process."""

    role: str
    arguments: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]
    started_s: float


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and memory of a process tree; CPU of ended processes stays counted."""

    cpu_s: dict[str, float]
    rss_mb: dict[str, float]


@dataclass(slots=True)
class Processes:
    """The children of one stack. A child that dies is started again, and every restart is reported."""

    log_folder: Path
    env: Mapping[str, str]
    children: dict[str, Child] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    _rss: dict[str, float] = field(default_factory=dict)
    _cpu: dict[int, tuple[str, float]] = field(default_factory=dict)

    def start(self, role: str, *arguments: str) -> Child:
        """Starts `eo <arguments>` in its own process session, output to a log file."""
        self.log_folder.mkdir(parents=True, exist_ok=True)
        log = self.log_folder / f"{role}.log"
        child = Child(role, arguments, log, self._spawn(arguments, log), time.monotonic())
        self.children[role] = child
        return child

    def _spawn(self, arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "agents", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(self.env),
                start_new_session=True,
            )

    def revive(self) -> list[str]:
        """Starts dead children again, at most once a second each; returns one line for each restart."""
        lines = []
        for child in self.children.values():
            code = child.process.poll()
            if code is None or time.monotonic() - child.started_s < RESTART_PAUSE_S:
                continue
            self.restarts[child.role] = self.restarts.get(child.role, 0) + 1
            child.process = self._spawn(child.arguments, child.log)
            child.started_s = time.monotonic()
            lines.append(f"{child.role} ended with {code} and was started again; see {child.log}")
        return lines

    def stop(self, role: str, *, timeout_s: float = 20.0) -> None:
        """SIGTERM to one child, SIGKILL after the bound; its own children are its business."""
        child = self.children.pop(role, None)
        if child is not None:
            end(child.process, timeout_s)

    def stop_all(self, *, timeout_s: float = 20.0) -> None:
        for role in list(self.children):
            self.stop(role, timeout_s=timeout_s)

    def usage(self, extra: Mapping[str, int] | None = None) -> Usage:
        """CPU and memory by role, descendants of children included; `extra` adds single processes by pid."""
        rss: dict[str, float] = {}
        for child in self.children.values():
            for member in (child.process.pid, *descendants(child.process.pid)):
                self._see(member, _role_of(member, child.role), rss)
        for role, pid in (extra or {}).items():
            self._see(pid, role, rss)
        cpu: dict[str, float] = {}
        for name, seconds in self._cpu.values():
            cpu[name] = cpu.get(name, 0.0) + seconds
        # What has ended keeps the memory that it had when it was last seen.
        self._rss.update(rss)
        return Usage(cpu, dict(self._rss))

    def _see(self, pid: int, role: str, rss: dict[str, float]) -> None:
        if (seen := _stat(pid)) is not None:
            self._cpu[pid] = (role, seen[0])
            rss[role] = rss.get(role, 0.0) + seen[1]


def end(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Ends a process by its pid: SIGTERM, a bounded wait, SIGKILL."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
    return process.returncode


def descendants(pid: int) -> list[int]:
    """All processes below a pid, from /proc; empty when it is gone."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            below = [int(text) for text in task.read_text().split()]
        except OSError:
            continue
        for child in below:
            found += [child, *descendants(child)]
    return found


def _stat(pid: int) -> tuple[float, float] | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS, int(fields[21]) * PAGE_BYTES / 1e6


def _role_of(pid: int, role: str) -> str:
    """A supervisor's children are named after their job: `eo worker features` counts as worker-features."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return role
    if (
        b"worker" in words
        and (after := words[words.index(b"worker") + 1 :])
        and after[0]
        and not after[0].startswith(b"-")
    ):
        return f"{role}-{after[0].decode()}"
    return role


def alive(pid: int) -> bool:
    """Whether a process exists; a zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, IndexError):
        return False


def read_json(path: Path) -> dict[str, object] | None:
    """A JSON object from a file, None when it is absent or unreadable at this moment."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
