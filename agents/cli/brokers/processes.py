"""Processes that outlive the command that started them: start detached, recognise by pid and start time, end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

POLL_S = 0.05


def spawn(argv: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None) -> int:
    """Starts a program in a session of its own (Ctrl-C in our terminal must not reach it) and returns its pid.

    Output goes to `log`, which starts anew. Raises OSError when the program cannot be started.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise FileNotFoundError(argv[0])
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    return os.posix_spawn(
        program,
        list(argv),
        dict(os.environ if env is None else env),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def start_mark(pid: int) -> str | None:
    """When the process began, in the system's own words; None when there is no such live process.

    A zombie is dead: it holds no port and no file. Being its parent, we reap it here.
    """
    with suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
    stat = Path(f"/proc/{pid}/stat")
    if stat.parent.parent.joinpath("self").exists():
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if after_name[0] in {"Z", "X"} else after_name[19]
    shown = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, began = shown.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else began.strip()


def alive(pid: int | None, mark: str | None) -> bool:
    """Whether this very process runs: the pid lives and began when we noted it."""
    return pid is not None and mark is not None and start_mark(pid) == mark


def end(pid: int, mark: str, *, grace_s: float = 20.0, kill_s: float = 5.0) -> bool:
    """SIGTERM, and SIGKILL after `grace_s`. Returns whether the process is gone; a stranger with the pid is spared."""
    for number, bound_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, kill_s)):
        if not alive(pid, mark):
            return True
        with suppress(ProcessLookupError):
            # A stopped process cannot act on SIGTERM before it is continued.
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        if wait_until(lambda: not alive(pid, mark), bound_s):
            return True
    return False


def wait_until(done: Callable[[], bool], timeout_s: float, *, clock: Callable[[], float] = time.monotonic) -> bool:
    """Polls until `done()` or the bound; returns whether it came."""
    deadline = clock() + timeout_s
    while not done():
        if clock() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def free_port(wanted: int | None = None) -> int:
    """A free loopback port, the wanted one when it is free."""
    for candidate in (wanted, 0):
        if candidate is None:
            continue
        with socket.socket() as probe:
            # As the JVM does: a port in TIME_WAIT after a restart counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind(("127.0.0.1", candidate))
                return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")
