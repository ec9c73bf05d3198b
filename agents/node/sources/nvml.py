"""NVIDIA GPUs through NVML (nvidia-ml-py, imported when first used). Reads only: it must never set anything.

Every GPU is known by its UUID. A GPU that fails gives nulls and state "lost" while the others go on; handles are made
again with growing pauses, because they die with a lost GPU or a reloaded driver. What a driver does not offer (missing
symbol, not supported) is null.
"""

from __future__ import annotations

import importlib
import logging
import time
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from agents.node.sources import nvml_fields as fields
from agents.node.sources.base import Probe, Reading
from agents.node.sources.nvml_fields import Device
from streams.contract.records import GpuColumns, GpuState

log = logging.getLogger(__name__)
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0


class NvmlSource:
    """All NVIDIA GPUs of this host; quality "measured".

    Args:
        library: stands in for the pynvml module in tests.
        monotonic: seconds, for the pauses between attempts.
    """

    name = "nvml"

    def __init__(
        self, library: ModuleType | Any | None = None, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._given, self._monotonic = library, monotonic
        self._lib: Any = library
        self._devices: dict[str, Device] = {}
        self._open = False
        self._reason: str | None = None
        self._backoff_s, self._retry_at = BACKOFF_MIN_S, 0.0

    # --- contract ----------------------------------------------------------------------------------------------

    def probe(self) -> Probe:
        if not self._ready():
            return Probe(False, self._reason)
        if not self._devices:
            return Probe(False, "the NVIDIA driver is loaded and sees no GPU; check `nvidia-smi -L`")
        self._rows(self._lib)
        return Probe(True, self._reason, self._capability())

    def read(self, now_ns: int) -> Reading:
        """One row per known GPU; without any GPU the reading has no GPU part."""
        self._ready()
        rows = self._rows(self._lib) if self._devices else []
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=self._capability(),
            gpu=self._columns(rows) if rows else None,
        )

    def close(self) -> None:
        if self._open:
            self._open = False
            try:
                self._lib.nvmlShutdown()
            except self._errors() as error:
                log.debug("NVML did not shut down cleanly: %s", error)

    # --- library -----------------------------------------------------------------------------------------------

    def _errors(self) -> tuple[type[BaseException], ...]:
        """NVMLLibraryMismatchError is no NVMLError; OSError and AttributeError come from a library without a symbol."""
        return (self._lib.NVMLError, self._lib.NVMLLibraryMismatchError, OSError, AttributeError)

    def _ready(self) -> bool:
        """Opens the library when it is not, or again when something was lost and the pause is over."""
        lost = any(device.state == "lost" for device in self._devices.values())
        if self._open and not lost:
            return True
        if self._monotonic() < self._retry_at:
            return self._open
        self._retry_at = self._monotonic() + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_MAX_S)
        self.close()
        self._start()
        if self._open and all(device.state == "ok" for device in self._devices.values()):
            self._backoff_s = BACKOFF_MIN_S
        return self._open

    def _start(self) -> None:
        try:
            with warnings.catch_warnings():
                # The retired distribution named pynvml announces its renaming; the bindings are nvidia-ml-py's.
                warnings.simplefilter("ignore", FutureWarning)
                self._lib = self._given or importlib.import_module("pynvml")
        except ImportError as error:
            self._reason = f"the NVML bindings are not installed ({error}); pip install nvidia-ml-py"
            return
        try:
            self._lib.nvmlInit()
            self._open = True
            self._reason = None
            self._find()
        except self._errors() as error:
            self._reason = f"{fields.explain(self._lib, error)} ({error})"
            self.close()

    def _find(self) -> None:
        """Makes handles again; GPUs seen before keep their place and are lost when they do not answer."""
        found: dict[str, Any] = {}
        for index in range(self._lib.nvmlDeviceGetCount()):
            try:
                handle = self._lib.nvmlDeviceGetHandleByIndex(index)
                found[fields.text(self._lib.nvmlDeviceGetUUID(handle))] = handle
            except self._errors() as error:
                self._reason = f"GPU {index} gives no handle: {fields.explain(self._lib, error)} ({error})"
                log.warning("%s", self._reason)
        for uuid, device in self._devices.items():
            device.renew(found.get(uuid))
        for uuid, handle in found.items():
            self._devices.setdefault(uuid, Device(uuid, handle))
        if self._devices.keys() - found.keys():
            log.warning("%d known GPUs do not answer after a new start", len(self._devices.keys() - found.keys()))

    # --- reading -----------------------------------------------------------------------------------------------

    def _rows(self, lib: Any) -> list[dict[str, Any]]:
        rows = [fields.read(lib, device, self._errors()) for device in self._devices.values()]
        if not self._open:
            return rows
        if any(device.library_gone for device in self._devices.values()):
            # The driver went away below us: no handle of this session will ever work again.
            for device in self._devices.values():
                device.state = "lost"
        return rows

    def _columns(self, rows: list[dict[str, Any]]) -> GpuColumns:
        columns: dict[str, Any] = {}
        for name in fields.COLUMNS:
            values = tuple(row.get(name) for row in rows)
            columns[name] = None if all(value is None for value in values) else values
        states: tuple[GpuState, ...] = tuple(device.state for device in self._devices.values())
        return GpuColumns(uuid=tuple(self._devices), state=states, **columns)

    def _capability(self) -> tuple[str, ...]:
        """What at least one GPU here has answered."""
        seen = {name for device in self._devices.values() for name in device.known}
        return tuple(word for word, name in fields.CAPABILITY if name in seen)
