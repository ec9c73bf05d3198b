"""Drives the C stand-in for NVML: builds it, makes its state file, turns its knobs, reads what was really set.

Real C boundary, simulated devices. The library is built from stand_in.c with gcc and the nvml.h of the package
nvidia-nvml-dev-cu12; where either is missing `library()` says so in one line and tests skip with it.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import mmap
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

SOURCE = Path(__file__).with_name("stand_in.c")
STATE_VARIABLE = "FAKE_NVML_STATE"
MAGIC = 0x454F4E31
MAX_GPUS = 16
NO_PERMISSION, UNINITIALIZED, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = 4, 1, 9, 15, 999


class StandInMissing(Exception):
    """The library cannot be built here; the text is one line with the reason."""


_U32_FIELDS = (
    *("limit_mw", "default_mw", "min_mw", "max_mw", "idle_mw", "lock_min_mhz", "lock_max_mhz"),
    *("sm_min_mhz", "sm_max_mhz", "sm_step_mhz", "mem_mhz", "temp_c", "mem_temp_c"),
    *("util_percent", "mem_util_percent", "persistence", "power_mw"),
    *("demand_mw", "lag_ms", "reasons", "latency_us", "get_err", "set_err", "lie_set", "pad"),
)
_U64_FIELDS = ("mem_used", "mem_total", "energy_uj", "last_ns", "set_calls")


class GpuState(ctypes.Structure):
    """Mirror of gpu_t. Every field may be read and written while other processes run."""

    _fields_ = (
        ("name", ctypes.c_char * 64),
        ("uuid", ctypes.c_char * 64),
        *((field, ctypes.c_uint32) for field in _U32_FIELDS),
        *((field, ctypes.c_uint64) for field in _U64_FIELDS),
    )


class State(ctypes.Structure):
    """Mirror of state_t."""

    _fields_ = (
        ("magic", ctypes.c_uint32),
        ("count", ctypes.c_uint32),
        ("init_err", ctypes.c_uint32),
        ("gone_err", ctypes.c_uint32),
        ("gpu", GpuState * MAX_GPUS),
    )


def header_folder() -> Path:
    """Where nvml.h is; raises StandInMissing."""
    for name in ("nvidia-nvml-dev-cu12", "nvidia-nvml-dev"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name == "nvml.h":
                return Path(str(file.locate())).parent
    raise StandInMissing("no nvml.h: pip install nvidia-nvml-dev-cu12")


def library() -> Path:
    """The folder with libnvidia-ml.so.1, built once per source and user. Raises StandInMissing."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise StandInMissing("no C compiler (gcc or cc) for the stand-in of NVML")
    header = header_folder()
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"eo-nvml-stand-in-{os.getuid()}-{digest}"
    target = folder / "libnvidia-ml.so.1"
    if not target.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        half = folder / f".building-{os.getpid()}"
        flags = ["-O1", "-Wall", "-Wextra", "-shared", "-fPIC", "-fvisibility=hidden", f"-I{header}"]
        command = [compiler, *flags, "-Wl,-soname,libnvidia-ml.so.1", "-o", str(half), str(SOURCE)]
        built = subprocess.run(command, capture_output=True, text=True)
        if built.returncode:
            raise RuntimeError(f"the stand-in of NVML does not compile:\n{built.stderr}")
        half.replace(target)  # another test process may build at the same time: whole files only
    return folder


class FakeNvml:
    """One set of simulated devices in a state file. Faults are methods with a name; `heal` undoes them all."""

    def __init__(self, folder: Path, *, gpus: int = 8, model: str = "NVIDIA H100 80GB HBM3") -> None:
        self.library_folder = library()
        self.path = folder / "nvml.state"
        self.path.write_bytes(bytes(ctypes.sizeof(State)))
        with self.path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(State))
        self.state = State.from_buffer(self._map)
        for index in range(gpus):
            self._reset(self.state.gpu[index], index, model)
        self.state.count, self.state.magic = gpus, MAGIC

    @staticmethod
    def _reset(gpu: GpuState, index: int, model: str) -> None:
        gpu.name, gpu.uuid = model.encode(), f"GPU-00000000-0000-4000-8000-{index:012d}".encode()
        gpu.limit_mw = gpu.default_mw = gpu.max_mw = 700_000
        gpu.min_mw, gpu.idle_mw, gpu.power_mw, gpu.demand_mw = 200_000, 70_000, 70_000, 70_000
        gpu.sm_min_mhz, gpu.sm_max_mhz, gpu.sm_step_mhz, gpu.mem_mhz = 345, 1980, 15, 2619
        gpu.temp_c, gpu.mem_temp_c, gpu.persistence = 35, 40, 1
        gpu.mem_total, gpu.mem_used = 80 * 10**9, 10**9
        gpu.last_ns = time.monotonic_ns()

    @classmethod
    def or_skip(cls, folder: Path, *, gpus: int = 8) -> FakeNvml:
        """As the constructor; skips the test with one line where the library cannot be built."""
        import pytest

        try:
            return cls(folder, gpus=gpus)
        except StandInMissing as missing:
            pytest.skip(str(missing))

    # -- use -----------------------------------------------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """For another process: the loader finds the stand-in first."""
        return {"LD_LIBRARY_PATH": str(self.library_folder), STATE_VARIABLE: str(self.path)}

    def load(self) -> None:
        """For this process: loaded under its soname before NVML's bindings look for it."""
        os.environ[STATE_VARIABLE] = str(self.path)
        self._library = ctypes.CDLL(str(self.library_folder / "libnvidia-ml.so.1"))

    def unload(self) -> None:
        """Ends every open session of this process, so that the next test maps its own state."""
        os.environ.pop(STATE_VARIABLE, None)
        while self._library.nvmlShutdown() == 0:
            pass

    def close(self) -> None:
        """Lets the state file go."""
        del self.state
        self._map.close()

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(self.state.gpu[i].uuid.decode() for i in range(self.state.count))

    def limits_w(self) -> dict[str, float]:
        """Power limit of each GPU as the device holds it, watts."""
        return {uuid: self.state.gpu[i].limit_mw / 1000 for i, uuid in enumerate(self.uuids)}

    def locks_mhz(self) -> dict[str, int]:
        """Upper clock lock of each GPU, 0 = none."""
        return {uuid: self.state.gpu[i].lock_max_mhz for i, uuid in enumerate(self.uuids)}

    def set_calls(self) -> int:
        """How often anybody asked any device for anything."""
        return sum(self.state.gpu[i].set_calls for i in range(self.state.count))

    def load_gpu(self, index: int, *, demand_w: float, util_percent: int = 97) -> None:
        """Work on a GPU: what it would draw without a limit."""
        gpu = self.state.gpu[index]
        gpu.demand_mw, gpu.util_percent = round(demand_w * 1000), util_percent

    # -- named faults --------------------------------------------------------------------------------------------------

    def lost(self, index: int) -> None:
        """The GPU fell off the bus: reads and sets say GPU_IS_LOST."""
        self.state.gpu[index].get_err = self.state.gpu[index].set_err = GPU_IS_LOST

    def forbidden(self) -> None:
        """This process may read and not set."""
        self._all("set_err", NO_PERMISSION)

    def lying_set(self, index: int) -> None:
        """Sets say success and change nothing."""
        self.state.gpu[index].lie_set = 1

    def slow(self, ms: float) -> None:
        """Every call takes so long."""
        self._all("latency_us", round(ms * 1000))

    def driver_gone(self) -> None:
        """The driver was unloaded: every call fails, a new session too."""
        self.state.gone_err, self.state.init_err = UNINITIALIZED, DRIVER_NOT_LOADED

    def energy_reset(self, index: int) -> None:
        """The energy counter starts again, as after a driver reload."""
        self.state.gpu[index].energy_uj = 0

    def foreign_writer(self, index: int, watts: float) -> None:
        """Somebody else sets the limit, past the library."""
        self.state.gpu[index].limit_mw = round(watts * 1000)

    def heal(self) -> None:
        """No fault is left; limits and locks stay as they are."""
        self.state.gone_err = self.state.init_err = 0
        for name in ("get_err", "set_err", "lie_set", "latency_us"):
            self._all(name, 0)

    def _all(self, name: str, value: int) -> None:
        for index in range(self.state.count):
            setattr(self.state.gpu[index], name, value)
