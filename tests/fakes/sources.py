"""Stand-ins for what a node agent senses and commands: NVML bindings, a twin bank, a capper. Each fault has a name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from agents.node.errors import CapperUnavailable, SourceError
from agents.node.sources.base import Probe, Reading
from streams.contract import codec
from streams.contract.records import (
    AckColumns,
    EngineReading,
    EnvelopeColumns,
    GpuColumns,
    HostReading,
    LatencyTarget,
    NodeTelemetry,
    PowerApplied,
    PowerDesired,
)

UUIDS = tuple(f"GPU-{n:08d}" for n in range(8))
STACK = "llama-3.1-70b/bf16/twin/h100x4"


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"NVML code {value}")
        self.value = value


class MismatchError(Exception):
    """As in the real bindings: no relative of NvmlError, and without a code."""


class FakeNvml:
    """The read calls of the bindings. Faults: `init_error`, `missing` (calls without a symbol), `not_supported`,
    `gpu_error` (index -> code of every call), `dead_handles` (handles of an ended session answer code 1)."""

    NVMLError, NVMLLibraryMismatchError = NvmlError, MismatchError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU, NVML_FI_DEV_MEMORY_TEMP = 1, 2, 0, 82
    NVML_ERROR_UNINITIALIZED, NVML_ERROR_INVALID_ARGUMENT, NVML_ERROR_NOT_SUPPORTED = 1, 2, 3
    NVML_ERROR_NO_PERMISSION, NVML_ERROR_DRIVER_NOT_LOADED, NVML_ERROR_LIBRARY_NOT_FOUND = 4, 9, 12
    NVML_ERROR_FUNCTION_NOT_FOUND, NVML_ERROR_GPU_IS_LOST, NVML_ERROR_RESET_REQUIRED = 13, 15, 16
    NVML_ERROR_LIB_RM_VERSION_MISMATCH, NVML_ERROR_ARGUMENT_VERSION_MISMATCH, NVML_ERROR_UNKNOWN = 18, 25, 999

    VALUES: Mapping[str, Any] = {
        "nvmlDeviceGetName": "NVIDIA H100 80GB HBM3",
        "nvmlDeviceGetPowerUsage": 412_345,
        "nvmlDeviceGetTotalEnergyConsumption": 987_654_321,
        "nvmlDeviceGetEnforcedPowerLimit": 650_000,
        "nvmlDeviceGetPowerManagementDefaultLimit": 700_000,
        "nvmlDeviceGetPowerManagementLimitConstraints": [200_000, 700_000],
        "nvmlDeviceGetMaxClockInfo": 1980,
        "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=87, memory=40),
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(used=60_000_000_000, total=85_000_000_000),
        "nvmlDeviceGetTemperatureV": 61,
        "nvmlDeviceGetTemperature": 62,
        "nvmlDeviceGetFieldValues": (SimpleNamespace(nvmlReturn=0, value=SimpleNamespace(uiVal=70)),),
        "nvmlDeviceGetCurrentClocksEventReasons": 4,
        "nvmlDeviceGetCurrentClocksThrottleReasons": 8,
    }

    def __init__(self, gpus: int = 2) -> None:
        self.gpus, self.session, self.open = gpus, 0, False
        self.init_error: int | None = None
        self.missing: set[str] = set()
        self.not_supported: set[str] = set()
        self.gpu_error: dict[int, int] = {}
        self.dead_handles = False
        self.inits = 0
        self.changed: dict[str, Any] = {}

    def nvmlInit(self) -> None:
        self.inits += 1
        if self.init_error is not None:
            raise NvmlError(self.init_error)
        self.open, self.dead_handles, self.session = True, False, self.session + 1

    def nvmlShutdown(self) -> None:
        self.open = False

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, int]:
        if index in self.gpu_error:
            raise NvmlError(self.gpu_error[index])
        return (self.session, index)

    def nvmlDeviceGetUUID(self, handle: tuple[int, int]) -> str:
        return UUIDS[handle[1]]

    def nvmlDeviceGetClockInfo(self, handle: tuple[int, int], kind: int) -> int:
        self._check("nvmlDeviceGetClockInfo", handle)
        return {1: 1755, 2: 2619}[kind]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in self.VALUES:
            raise AttributeError(name)

        def call(handle: tuple[int, int], *_: object) -> Any:
            self._check(name, handle)
            return self.changed.get(name, self.VALUES[name])

        return call

    def _check(self, name: str, handle: tuple[int, int]) -> None:
        if self.dead_handles or handle[0] != self.session:
            raise NvmlError(self.NVML_ERROR_UNINITIALIZED)
        if name in self.missing:
            raise MismatchError("symbol missing")
        if name in self.not_supported:
            raise NvmlError(self.NVML_ERROR_NOT_SUPPORTED)
        if handle[1] in self.gpu_error:
            raise NvmlError(self.gpu_error[handle[1]])


class FakeSource:
    """Gives what it was told; fault: `broken` (a text) makes every reading fail with it."""

    def __init__(self, name: str = "fake", **parts: Any) -> None:
        self.name, self.parts = name, parts
        self.broken: str | None = None
        self.closed = False

    def probe(self) -> Probe:
        return Probe(True, None, ("fake",))

    def read(self, now_ns: int) -> Reading:
        if self.broken is not None:
            raise SourceError(self.broken)
        parts = {"quality": "measured", "capability": (f"{self.name}.all",), **self.parts}
        return Reading(source=self.name, ts_ns=now_ns, **parts)

    def close(self) -> None:
        self.closed = True


def gpu_columns(count: int = 8, **columns: Any) -> GpuColumns:
    return GpuColumns(
        uuid=UUIDS[:count],
        **{
            "power_w": (400.0,) * count,
            "sm_mhz": (1980,) * count,
            "sm_max_mhz": (1980,) * count,
            "throttle": (0,) * count,
            **columns,
        },
    )


def engine(slot: int = 0, *, ts_ns: int = 0, **fields: Any) -> EngineReading:
    given = {"stack": STACK, "running": 8, "waiting": 0, "waiting_tokens": 0, "kv_tokens": 9000, **fields}
    uuids = UUIDS[4 * slot : 4 * slot + 4]
    return EngineReading(engine=f"n1/r{slot}", kind="twin", workload="chat", gpu_uuid=uuids, ts_ns=ts_ns, **given)


class FakeBank:
    """A twin bank of one node with constant readings."""

    def gpu_columns(self, node_index: int) -> GpuColumns:
        return gpu_columns()

    def engines(self, node_index: int, now_ns: int) -> tuple[EngineReading, ...]:
        return (engine(0, ts_ns=now_ns), engine(1, ts_ns=now_ns))

    def engines_now(
        self, node_index: int, now_ns: int, only: frozenset[str] | None = None
    ) -> tuple[EngineReading, ...]:
        return self.engines(node_index, now_ns)

    def host(self, node_index: int) -> HostReading | None:
        return None


def telemetry(ts_ns: int = 0, **fields: Any) -> NodeTelemetry:
    given = {"gpu": gpu_columns(), "engines": (engine(0, ts_ns=ts_ns), engine(1, ts_ns=ts_ns)), **fields}
    return NodeTelemetry(
        cluster="c", node="n1", boot_id="b", seq=1, ts_ns=ts_ns, source=("twin",), quality="simulated", **given
    )


def desired(seq: int = 1, *, holdout: tuple[int, ...] = (), low: int = 990, high: int = 1980, **fields: Any) -> bytes:
    """The raw bytes of an unsigned envelope for node n1 and its eight GPUs."""
    given = {"issued_at_ns": 0, "ttl_ms": 15_000, "mode": "on", **fields}
    columns = EnvelopeColumns(
        uuid=UUIDS,
        min_sm_mhz=tuple(None if n in holdout else low for n in range(8)),
        max_sm_mhz=tuple(None if n in holdout else high for n in range(8)),
        max_power_w=(None,) * 8,
        engine=tuple(f"n1/r{n // 4}" for n in range(8)),
        holdout=tuple(n in holdout for n in range(8)),
        reason=("test",) * 8,
    )
    targets = tuple(LatencyTarget(engine=f"n1/r{slot}", tbt_ms=50.0, ttft_ms=2000.0) for slot in (0, 1))
    record = PowerDesired(
        cluster="c",
        node="n1",
        epoch=1,
        seq=seq,
        sample_ts_ns=0,
        on_expiry="restore",
        strategy="balanced",
        policy_version="1",
        gpu=columns,
        reason="test",
        targets=targets,
        **given,
    )
    return codec.encode(record)


def applied(event: str, status: str, *, uuids: tuple[str, ...] = UUIDS, seq: int = 1) -> PowerApplied:
    none = (None,) * len(uuids)
    columns: Any = {"status": (status,) * len(uuids), "reason": ("",) * len(uuids)}
    what: Any = event
    return PowerApplied(
        cluster="c",
        node="n1",
        ts_ns=0,
        event=what,
        epoch=1,
        seq=seq,
        quality="simulated",
        gpu=AckColumns(
            uuid=uuids,
            requested_limit_w=none,
            effective_limit_w=none,
            previous_limit_w=none,
            requested_sm_mhz=none,
            effective_sm_mhz=none,
            measured_w=none,
            **columns,
        ),
    )


class FakeCapper:
    """Faults: `status` (what every grant answers), `gone` (no answer at all), `stuck` (locks that do not move)."""

    def __init__(self) -> None:
        self.answer = "applied"
        self.gone = False
        self.stuck: set[str] = set()
        self.locks: dict[str, int | None] = {}
        self.calls: list[dict[str, int | None]] = []
        self.pending: list[PowerApplied] = []
        self.row_loads: list[tuple[float | None, float]] = []

    def grant(self, raw: bytes, *, received_ns: int) -> PowerApplied:
        self._alive()
        return applied("command", self.answer, seq=codec.decode(PowerDesired, raw).seq)

    def set_clocks(self, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
        self._alive()
        self.calls.append(dict(wanted))
        self.locks.update({uuid: mhz for uuid, mhz in wanted.items() if uuid not in self.stuck})
        return {uuid: self.locks.get(uuid) for uuid in wanted}

    def set_limits(self, wanted: Mapping[str, float | None]) -> dict[str, float | None]:
        self._alive()
        return dict(wanted)

    def events(self) -> list[PowerApplied]:
        self._alive()
        out, self.pending = self.pending, []
        return out

    def row_load(self, watts: float | None, age_s: float) -> bool:
        self._alive()
        self.row_loads.append((watts, age_s))
        return True

    def status(self) -> dict[str, object]:
        return {}

    def _alive(self) -> None:
        if self.gone:
            raise CapperUnavailable("capper at test does not answer (gone)")
