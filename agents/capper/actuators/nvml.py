"""NVML sessions for the two NVIDIA actuators: handles by UUID, vendor errors translated once, reopened after a loss.

The bindings are imported at the first call, so that a node without NVIDIA hardware never loads them. Handles die with a
lost GPU or a reloaded driver: after such an error the session is opened again, at most once in 5 s.
"""

from __future__ import annotations

import importlib
import time
import warnings
from collections.abc import Callable
from typing import Any, Final

from agents.capper.actuators.errors import ActuatorError, DeviceLost, NotPermitted, NotSupported, OutOfRange

_REOPEN_S: Final = 5.0
# NVML_ERROR_*: UNINITIALIZED, NOT_FOUND, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, GPU_IS_LOST, RESET_REQUIRED
_GONE: Final = {
    1: "driver gone",
    6: "not found",
    9: "driver not loaded",
    12: "no library",
    15: "lost",
    16: "needs reset",
}
_SESSION_GONE: Final = frozenset({1, 9, 12})


def bindings() -> Any:
    """The pynvml module of nvidia-ml-py, without the renaming notice that an alias package prints."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return importlib.import_module("pynvml")
        except ImportError as error:
            raise NotSupported(f"the NVML bindings are not installed ({error}); pip install nvidia-ml-py") from error


class NvmlTable:
    """One NVML session shared by the actuators of a process."""

    def __init__(self, library: Any | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._given, self._monotonic = library, monotonic
        self._lib: Any = None
        self._handles: dict[str, Any] = {}
        self._next_open_s = float("-inf")

    def uuids(self) -> tuple[str, ...]:
        """Every GPU that answers, in the driver's order. Raises ActuatorError."""
        if not self._handles:
            self._open()
        return tuple(self._handles)

    def call(self, uuid: str, function: str, *arguments: object) -> Any:
        """One NVML function on one GPU. Raises ActuatorError with the GPU, the function and NVML's own words."""
        if uuid not in self._handles and self._monotonic() >= self._next_open_s:
            self._open()
        handle = self._handles.get(uuid)
        if handle is None:
            raise DeviceLost(f"{uuid} does not answer; see nvidia-smi -L")
        try:
            return getattr(self._lib, function)(handle, *arguments)
        except self._errors() as error:
            self._forget(uuid, getattr(error, "value", None))
            raise translate(error, f"{uuid}: {function}{arguments or '()'}") from error

    def _forget(self, uuid: str, code: int | None) -> None:
        if code in _SESSION_GONE:
            self._handles.clear()
        elif code in _GONE:
            self._handles.pop(uuid, None)

    def constant(self, name: str) -> int:
        """A constant of the bindings. Opens the session when there is none."""
        if self._lib is None:
            self._open()
        return int(getattr(self._lib, name))

    def close(self) -> None:
        if self._lib is not None:
            try:
                self._lib.nvmlShutdown()
            except self._errors():
                pass  # a driver that is gone cannot be told goodbye
            self._lib, self._handles = None, {}

    def _errors(self) -> tuple[type[BaseException], ...]:
        lib = self._lib
        return (lib.NVMLError, lib.NVMLLibraryMismatchError)

    def _open(self) -> None:
        """A new session and new handles. Callers ask at most once in 5 s: a missing driver answers slowly."""
        self._next_open_s = self._monotonic() + _REOPEN_S
        self.close()
        lib = self._given or bindings()
        try:
            lib.nvmlInit()
        except (lib.NVMLError, lib.NVMLLibraryMismatchError) as error:
            raise translate(error, "NVML does not open") from error
        self._lib = lib
        self._handles = self._find(lib)

    def _find(self, lib: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            for index in range(lib.nvmlDeviceGetCount()):
                try:
                    handle = lib.nvmlDeviceGetHandleByIndex(index)
                    uuid = lib.nvmlDeviceGetUUID(handle)
                except lib.NVMLError as error:
                    if getattr(error, "value", None) not in _GONE:
                        raise
                    continue  # one lost GPU must not hide the others
                found[uuid.decode() if isinstance(uuid, bytes) else str(uuid)] = handle
        except self._errors() as error:
            raise translate(error, "the GPUs cannot be listed") from error
        return found


def translate(error: BaseException, what: str) -> ActuatorError:
    """NVML's code as one of our classes; the cause stays in the text."""
    code = getattr(error, "value", None)
    text = f"{what}: {error}"
    if code in _GONE:
        return DeviceLost(text)
    if code == 4:
        return NotPermitted(f"{text}; setting needs CAP_SYS_ADMIN")
    if code == 2:
        return OutOfRange(text)
    if code in {3, 13}:
        return NotSupported(text)
    return ActuatorError(text)
