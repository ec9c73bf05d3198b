"""Builds and steers the C stand-in for libdcgm.so.4. Real C boundary, simulated GPUs, faults by name.

Faults (`Fake.fault(name, status)`): init, connect, embedded, version, devices, attributes, group, field_group, watch,
watch_profiling, update, values, values_short (the engine leaves the first GPU out), health_set, health, policy.
Beside them: `status` and `old` (of one value), `stand_still` (time stamps that do not move), `max_field` (an older
engine), `gpus`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
HEADERS = FOLDER / "include"
TYPICAL: dict[int, int | float] = {
    155: 412.5, 156: 987_654_321, 157: 430.25, 160: 700.0, 161: 200.0, 162: 700.0, 163: 700.0, 164: 650.0, 100: 1755,
    101: 2619, 113: 1980, 112: 4, 150: 61, 140: 70, 203: 87, 204: 40, 250: 81559, 251: 20000, 252: 61000, 253: 559,
    230: 0, 1001: 0.9, 1002: 0.8, 1004: 0.5, 1005: 0.25,
}  # fmt: skip


class StandInMissing(Exception):
    """It cannot be built here; the text is one line with the reason."""


def built(source: str, *flags: str) -> Path:
    """A file made from one of this folder's sources, built once per content and user."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise StandInMissing("no C compiler (gcc or cc) for the stand-in of DCGM")
    text = (FOLDER / source).read_bytes() + " ".join(flags).encode()
    folder = Path(tempfile.gettempdir()) / f"eo-fake-dcgm-{os.getuid()}-{hashlib.sha256(text).hexdigest()[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    target = folder / ("libdcgm.so.4" if "-shared" in flags else source.removesuffix(".c"))
    if not target.exists():
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        made = subprocess.run(
            [compiler, "-O1", "-Wall", "-Werror", f"-I{HEADERS}", *flags, str(FOLDER / source), "-o", str(fresh)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if made.returncode:
            raise StandInMissing(f"{compiler} does not build {source}: {made.stderr.splitlines()[:1]}")
        fresh.replace(target)
    return target


@cache
def library() -> Path:
    """The path of the stand-in. Raises StandInMissing."""
    return built("stand_in.c", "-shared", "-fPIC", "-pthread")


class Fake:
    """The steering side; the state is the loaded library's, one per process."""

    def __init__(self, gpus: int = 2) -> None:
        self.path = str(library())
        self._lib: Any = ctypes.CDLL(self.path)
        self._lib.eo_fake_address.restype = ctypes.c_char_p
        self._lib.eo_fake_dbl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_double)
        self._lib.eo_fake_i64.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_longlong)
        self._lib.eo_fake_reset(gpus)
        for gpu in range(gpus):
            for field, value in TYPICAL.items():
                self.set(gpu, field, value)

    def set(self, gpu: int, field: int, value: int | float) -> None:
        (self._lib.eo_fake_dbl if isinstance(value, float) else self._lib.eo_fake_i64)(gpu, field, value)

    def status(self, gpu: int, field: int, status: int) -> None:
        self._lib.eo_fake_status(gpu, field, status)

    def old(self, gpu: int, field: int) -> None:
        """This value's time stamp stands at the beginning of time."""
        self._lib.eo_fake_old(gpu, field)

    def fault(self, name: str, status: int) -> None:
        self._lib.eo_fake_fault(name.encode(), status)

    def uuid(self, gpu: int, uuid: str) -> None:
        self._lib.eo_fake_uuid(gpu, uuid.encode())

    def gpus(self, count: int) -> None:
        self._lib.eo_fake_gpus(count)

    def max_field(self, field: int) -> None:
        self._lib.eo_fake_max_field(field)

    def stand_still(self, yes: bool = True) -> None:
        self._lib.eo_fake_stand_still(int(yes))

    def incident(self, gpu: int, system: int, result: int, text: str) -> None:
        self._lib.eo_fake_incident(gpu, system, result, text.encode())

    def policy(self, gpu: int, condition: int, number: int) -> int:
        return int(self._lib.eo_fake_policy(gpu, condition, number))

    def count(self, what: str) -> int:
        return int(self._lib.eo_fake_count(what.encode()))

    def address(self) -> str:
        return bytes(self._lib.eo_fake_address()).decode()
