"""NVIDIA GPUs through DCGM's own library (libdcgm.so.4) and a running nv-hostengine. Reads only: it sets nothing.

The host engine samples; this source only asks for its latest values, so a reading costs no driver call. An engine is
started inside the agent only when the address says "embedded".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from agents.node.errors import SourceError
from agents.node.sources import dcgm_abi as abi
from agents.node.sources import dcgm_fields as fields
from agents.node.sources.base import Probe, Reading
from agents.node.sources.dcgm_session import Device, Event, Latest, Session, SessionOver, load
from streams.contract.records import GpuColumns, GpuState

log = logging.getLogger(__name__)
BACKOFF_MIN_S: Final = 1.0
BACKOFF_MAX_S: Final = 60.0
STALE_S: Final = 30.0
HEALTH_S: Final = 10.0
DEVICES_S: Final = 60.0
FALLEN_OFF_THE_BUS: Final = 79
# What the engine samples every second; others it may keep since they changed, an Xid since it came.
_MOVING: Final = frozenset(
    {
        "power_w",
        "power_instant_w",
        "energy_mj",
        "sm_mhz",
        "mem_mhz",
        "util_ratio",
        "mem_util_ratio",
        "temp_c",
        "throttle",
    }
)
PLAIN: Final = tuple(f.number for f in fields.FIELDS if f.number < 1000 or f.number >= 1600)
PROFILING: Final = tuple(f.number for f in fields.FIELDS if 1000 <= f.number < 1100)


class DcgmNativeSource:
    """All GPUs of a host engine; quality "measured".

    Args:
        hostengine: "host:port", "unix:/path", or "embedded".
        profiling: also watches the profiling fields, which cost the GPU a little power and need the engine's root.
        library: path of libdcgm.so.4, or the loaded library in tests.
        stale_s: after so long without a new value of any field there is no reading.
        monotonic: seconds, for pauses and ages; a wall clock that jumps changes nothing.
    """

    name = "dcgm-native"

    def __init__(
        self,
        hostengine: str = "127.0.0.1:5555",
        *,
        profiling: bool = False,
        library: Any = abi.LIBRARY,
        stale_s: float = STALE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._given, self._monotonic = hostengine, library, monotonic
        self._numbers = PLAIN + (PROFILING if profiling else ())
        self._profiling, self._stale_s = profiling, float(stale_s)
        self._session: Session | None = None
        self._backoff_s, self._retry_at, self._reason = BACKOFF_MIN_S, 0.0, ""
        self._newest: tuple[int, float] = (0, monotonic())  # newest value's time of the engine, and when it came
        self._health_at = self._devices_at = float("-inf")
        self._health: dict[int, str] = {}
        self._xids: dict[int, int] = {}
        self.recent: list[Event] = []  # health and policy of the last reading
        self._capability: tuple[str, ...] = ()

    def probe(self) -> Probe:
        try:
            session = self._opened()
            if not session.devices:
                return Probe(False, f"the host engine at {self._address} lists no GPU; check `dcgmi discovery -l`")
            self.read(time.time_ns())
        except SourceError as error:
            return Probe(False, str(error))
        return Probe(True, None, self._capability)

    def read(self, now_ns: int) -> Reading:
        """The engine's latest values. Raises SourceError when it is gone, silent, or lists no GPU."""
        session = self._opened()
        try:
            self._watch_devices(session)
            found = list(session.latest())
            self._listen(session)
        except SessionOver as error:
            self._drop(str(error))
            raise
        self._age(found)
        missing = dict(session.notes)
        gpu = self._columns(session, found, missing)
        self._capability = self._words(gpu)
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=self._capability,
            gpu=gpu,
            missing=tuple(missing.items()),
        )

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    # --- session -----------------------------------------------------------------------------------------------

    def _opened(self) -> Session:
        """The session, made again with growing pauses when it was lost."""
        if self._session is not None:
            return self._session
        if self._monotonic() < self._retry_at:
            raise SourceError(self._reason)
        self._retry_at = self._monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        try:
            library = load(self._given) if isinstance(self._given, str) else self._given
            self._session = Session(library, self._address, self._numbers)
        except SourceError as error:
            self._reason = str(error)
            raise
        self._backoff_s, self._retry_at = BACKOFF_MIN_S, 0.0
        self._newest = (0, self._monotonic())
        self._devices_at = self._monotonic()
        log.info("connected to DCGM %s at %s", self._session.version or "of unknown version", self._address)
        return self._session

    def _drop(self, reason: str) -> None:
        self._reason = reason
        self._retry_at = self._monotonic() + self._backoff_s
        self.close()

    def _watch_devices(self, session: Session) -> None:
        """GPUs that come or go end the session; the next reading finds them."""
        now = self._monotonic()
        if now - self._devices_at < DEVICES_S:
            return
        self._devices_at = now
        if not session.same_devices():
            raise SessionOver(f"{self._address}: its list of GPUs has changed; they are looked up again")

    def _listen(self, session: Session) -> None:
        """Health every ten seconds, policy notices always; each is logged once, where it happens."""
        self.recent = session.events()
        now = self._monotonic()
        if now - self._health_at >= HEALTH_S:
            self._health_at = now
            incidents = session.health()
            self._health = {event.gpu_id: event.text for event in incidents}
            self.recent += incidents
        names = {device.gpu_id: device.uuid for device in session.devices}
        for event in self.recent:
            log.warning("%s: %s", names.get(event.gpu_id, f"DCGM entity {event.gpu_id}"), event.text)
            if event.xid is not None:
                self._xids[event.gpu_id] = event.xid

    def _age(self, found: Iterable[Latest]) -> None:
        """Refuses values that stand still: an engine that hangs repeats its last ones for ever."""
        newest, now = max((latest.ts_us for latest in found), default=0), self._monotonic()
        if newest != self._newest[0]:
            self._newest = (newest, now)
        elif newest and (age_s := now - self._newest[1]) > self._stale_s:
            raise SourceError(
                f"the host engine at {self._address} has given no new value for {age_s:.0f} s "
                f"(bound {self._stale_s:g} s); it stands still: restart nv-hostengine"
            )

    # --- values ------------------------------------------------------------------------------------------------

    def _columns(self, session: Session, found: Iterable[Latest], missing: dict[str, str]) -> GpuColumns | None:
        rows: dict[int, dict[str, Any]] = {device.gpu_id: {} for device in session.devices}
        why: dict[int, dict[str, str]] = {device.gpu_id: {} for device in session.devices}
        lost: set[int] = set()
        found = list(found)
        bound_us = max((latest.ts_us for latest in found), default=0) - int(self._stale_s * 1e6)
        for latest in sorted(found, key=_rank):
            field = fields.BY_NUMBER.get(latest.field)
            if field is None or latest.gpu_id not in rows or field.column in rows[latest.gpu_id]:
                continue
            value, reason = _value(field, latest)
            if value is not None and field.column in _MOVING and latest.ts_us < bound_us:
                value, reason = None, f"field {field.number}: more than {self._stale_s:g} s older than the newest value"
            if value is not None:
                rows[latest.gpu_id][field.column] = value
            elif reason is not None:
                why[latest.gpu_id].setdefault(field.column, reason)
            if latest.status in {abi.GPU_IS_LOST, abi.RESET_REQUIRED}:
                lost.add(latest.gpu_id)
        for device in session.devices:
            self._finish(device, rows[device.gpu_id], why[device.gpu_id], missing)
        _explain(session, rows, why, missing, profiling=self._profiling)
        return _as_columns(session.devices, rows, lost) if rows else None

    def _finish(self, device: Device, row: dict[str, Any], why: dict[str, str], missing: dict[str, str]) -> None:
        if row.get("power_w") is None and row.get("power_instant_w") is not None:
            row["power_w"] = row["power_instant_w"]
            why["power_w"] = "warning: no averaged power (field 155); this is the instant one (field 157)"
        if row.get("xid") is None and device.gpu_id in self._xids:
            row["xid"] = self._xids[device.gpu_id]
        if (text := self._health.get(device.gpu_id)) is not None:
            missing[f"gpus[{device.uuid}].health"] = f"warning: {text}"

    def _words(self, gpu: GpuColumns | None) -> tuple[str, ...]:
        words = () if gpu is None else fields.capability(gpu)
        notes = self._session.notes if self._session is not None else {}
        return (*words, *(f"gpu.{part}" for part in ("health", "policy") if part not in notes))


def _rank(latest: Latest) -> int:
    field = fields.BY_NUMBER.get(latest.field)
    return field.rank if field is not None else 0


def _value(field: fields.Field, latest: Latest) -> tuple[float | int | None, str | None]:
    if latest.status != abi.OK:
        return None, f"field {field.number}: {abi.explain(latest.status)}"
    if latest.value is None:
        return None, f"field {field.number}: DCGM gives a text where a number was expected"
    return fields.reading(field, latest.value)


def _explain(
    session: Session,
    rows: dict[int, dict[str, Any]],
    why: dict[int, dict[str, str]],
    missing: dict[str, str],
    *,
    profiling: bool,
) -> None:
    """One reason per column where all GPUs share it, else one per GPU."""
    for column in fields.COLUMNS:
        numbers = [field.number for field in fields.FIELDS if field.column == column]
        refused = next((session.refused[n] for n in numbers if n in session.refused), None)
        if refused is None and not profiling and all(n in PROFILING for n in numbers):
            refused = "profiling is off; dcgm_profiling = 1 turns it on"
        reasons = {d.uuid: why[d.gpu_id].get(column) for d in session.devices}
        lacking = {d.uuid for d in session.devices if rows[d.gpu_id].get(column) is None}
        shared = set(reasons.values())
        if len(shared) == 1 and (len(lacking) == len(reasons) or None not in shared):
            reason = shared.pop() or (refused or "DCGM gives no value of it" if lacking else None)
            if reason is not None:
                missing[f"gpus.{column}"] = reason
            continue
        for uuid, reason in reasons.items():
            if reason is not None or uuid in lacking:
                missing[f"gpus[{uuid}].{column}"] = reason or "DCGM gives no value of it"


def _as_columns(devices: Iterable[Device], rows: dict[int, dict[str, Any]], lost: set[int]) -> GpuColumns:
    devices, columns = tuple(devices), {}
    for column in fields.COLUMNS:
        values = tuple(rows[device.gpu_id].get(column) for device in devices)
        columns[column] = None if all(value is None for value in values) else values
    states: tuple[GpuState, ...] = tuple(_state(device.gpu_id, rows, lost) for device in devices)
    names = tuple(device.name for device in devices)
    return GpuColumns(uuid=tuple(d.uuid for d in devices), name=names if any(names) else None, state=states, **columns)


def _state(gpu_id: int, rows: dict[int, dict[str, Any]], lost: set[int]) -> GpuState:
    return "lost" if gpu_id in lost or rows[gpu_id].get("xid") == FALLEN_OFF_THE_BUS else "ok"
