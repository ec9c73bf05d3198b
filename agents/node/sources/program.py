"""Runs a program for a source: deadline, output cap, no shell. What the program may do is its caller's care."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from agents.node.errors import SourceError
from agents.node.sources.clean import printable

MAX_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Output:
    """What a program wrote, and its exit code."""

    out: bytes
    err: bytes
    code: int

    def first_line(self) -> str:
        """What it says about itself in one line, for an error message."""
        for text in (self.err, self.out):
            for line in text.decode("utf-8", "replace").splitlines():
                if line.strip():
                    return printable(" ".join(line.split()), 200)
        return "no output"


def run(
    argv: Sequence[str],
    *,
    deadline_s: float,
    max_bytes: int = MAX_BYTES,
    monotonic: Callable[[], float] = time.monotonic,
) -> Output:
    """Runs to its end within the deadline; the whole process group is killed otherwise.

    Raises:
        SourceError: it is not there, may not be run, took too long or wrote too much.
    """
    env = {**os.environ, "LC_ALL": "C"}  # numbers with points, words in English
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise SourceError(f"{argv[0]} is not installed here; install it, or go on without") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceError(f"{argv[0]} cannot be run ({reason}); check its path and rights") from error
    with process:
        try:
            return _collect(process, monotonic() + deadline_s, deadline_s, max_bytes, monotonic)
        finally:
            _end(process)


def _collect(
    process: subprocess.Popen[bytes], due: float, deadline_s: float, max_bytes: int, monotonic: Callable[[], float]
) -> Output:
    assert process.stdout is not None
    assert process.stderr is not None
    name = str(process.args[0]) if isinstance(process.args, list) else str(process.args)
    got = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as waiting:
        for fd in got:
            waiting.register(fd, selectors.EVENT_READ)
        while waiting.get_map():
            ready = waiting.select(max(0.0, due - monotonic()))
            if not ready:
                raise SourceError(f"{name} took longer than {deadline_s:g} s and was ended; is the device stuck?")
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                got[key.fd] += piece
                if not piece:
                    waiting.unregister(key.fd)
                elif len(got[key.fd]) > max_bytes:
                    raise SourceError(f"{name} wrote more than {max_bytes} bytes and was ended")
    try:
        code = process.wait(max(0.1, due - monotonic()))
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"{name} took longer than {deadline_s:g} s and was ended; is the device stuck?") from error
    out, err = got[process.stdout.fileno()], got[process.stderr.fileno()]
    return Output(bytes(out), bytes(err), code)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
