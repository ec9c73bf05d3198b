"""One session with a DCGM host engine: connect, group, watch, latest values, health, policy notices. Reads only.

It never sets a policy, a limit or a clock. Watches and groups are the session's own and end with it. Every call's
status is looked at; what the host engine refuses is told and left out.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.node.errors import SourceError
from agents.node.sources import dcgm_abi as abi
from agents.node.sources.clean import printable

UPDATE_US: Final = 1_000_000
KEEP_S: Final = 30.0
KEEP_SAMPLES: Final = 2
_HEAD: Final = struct.Struct("<IiIHHiIq")  # a field value up to its value
_I64, _F64 = struct.Struct("<q"), struct.Struct("<d")
_SIZE: Final = c.sizeof(abi.FieldValue)


class SessionOver(SourceError):
    """The host engine is gone, or its GPUs are; a new session is needed."""


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU of the host engine."""

    gpu_id: int
    uuid: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Latest:
    """One latest value: a number, or None with the status of its reading."""

    gpu_id: int
    field: int
    value: int | float | None
    status: int
    ts_us: int


@dataclass(frozen=True, slots=True)
class Event:
    """What health or policy said of a GPU, as a sentence; `xid` for an Xid."""

    gpu_id: int
    text: str
    xid: int | None = None


def load(path: str = abi.LIBRARY) -> Any:
    """The library with its prototypes. Raises SourceError, with what is there instead."""
    try:
        library = c.CDLL(path)
    except OSError as error:
        other = next((name for name in abi.OTHER_LIBRARIES if _there(name)), None)
        if other:
            raise SourceError(f"{other} is here, but this source speaks DCGM 4 ({path}); install DCGM 4") from error
        raise SourceError(f"{path} is not here; install DCGM 4, or go on without") from error
    try:
        abi.bind(library)
    except AttributeError as error:
        raise SourceError(f"{path} lacks a function of DCGM 4 ({error}); install DCGM 4") from error
    return library


def _there(name: str) -> bool:
    try:
        c.CDLL(name)
    except OSError:
        return False
    return True


class Session:
    """A connection, its groups and its watches.

    Args:
        library: from `load`.
        address: "host:port", "unix:/path", or "embedded" to start an engine in this process.
        fields: field numbers to watch; those that the host engine does not know are left out and in `refused`.
        timeout_ms: for connecting.
    """

    def __init__(self, library: Any, address: str, fields: Sequence[int], *, timeout_ms: int = 2000) -> None:
        self._lib, self._address, self._embedded = library, address, address == "embedded"
        self._handle, self._group = abi.Handle(0), abi.Handle(0)
        self._groups: list[abi.Handle] = []
        self._watched: list[abi.Handle] = []
        self.refused: dict[int, str] = {}
        self.notes: dict[str, str] = {}
        self.version: str | None = None
        self.devices: tuple[Device, ...] = ()
        self.fields: tuple[int, ...] = ()
        self._events: deque[Event] = deque(maxlen=256)
        self._callback = abi.PolicyCallback(self._on_policy)  # kept: the library calls it from its own thread
        self._open = self._policies = False
        self._check(self._lib.dcgmInit(), "dcgmInit")
        self._open = True
        try:
            self._connect(timeout_ms)
            self._find()
            self._watch(fields)
            self._listen()
        except BaseException:
            self.close()
            raise

    # --- opening -----------------------------------------------------------------------------------------------

    def _connect(self, timeout_ms: int) -> None:
        if self._embedded:
            embedded = abi.EmbeddedParams(abi.EMBEDDED_VERSION, abi.OPERATION_AUTO)
            self._check(self._lib.dcgmStartEmbedded_v2(c.byref(embedded)), "an embedded host engine")
            self._handle = abi.Handle(embedded.dcgmHandle)
        else:
            unix = self._address.startswith("unix:")
            where = self._address.removeprefix("unix:").removeprefix("//").encode()
            params = abi.ConnectParams(abi.CONNECT_VERSION, 0, timeout_ms, int(unix))
            status = self._lib.dcgmConnect_v2(where, c.byref(params), c.byref(self._handle))
            self._check(status, f"the host engine at {self._address}")
        info = abi.VersionInfo(abi.VERSION_INFO_VERSION)
        status = self._lib.dcgmHostengineVersionInfo(self._handle, c.byref(info))
        self._check(status, f"the version of the host engine at {self._address}")
        pairs = dict(pair.partition(":")[::2] for pair in _text(info.rawBuildInfoString).split(";"))
        self.version = pairs.get("version") or None

    def _find(self) -> None:
        ids, count = (c.c_uint * abi.MAX_DEVICES)(), c.c_int()
        self._check(self._lib.dcgmGetAllSupportedDevices(self._handle, ids, c.byref(count)), "the list of GPUs")
        found = []
        for gpu_id in ids[: max(0, min(count.value, abi.MAX_DEVICES))]:
            attributes = abi.DeviceAttributes(abi.ATTRIBUTES_VERSION)
            status = self._lib.dcgmGetDeviceAttributes(self._handle, gpu_id, c.byref(attributes))
            uuid = _text(attributes.identifiers.uuid) if status == abi.OK else ""
            if not uuid.startswith("GPU-"):
                self.notes[f"gpus[DCGM {gpu_id}]"] = f"it gives no UUID: {abi.explain(status)}"
                continue
            found.append(Device(gpu_id, uuid, _text(attributes.identifiers.deviceName) or None))
        self.devices = tuple(found)

    def _watch(self, fields: Sequence[int]) -> None:
        """Watches all fields as one group; profiling apart, because it may be refused as a whole."""
        name = f"eo-{os.getpid()}-{id(self):x}".encode()
        status = self._lib.dcgmGroupCreate(self._handle, abi.GROUP_DEFAULT, name, c.byref(self._group))
        self._check(status, "a group of all GPUs")
        plain = [field for field in fields if not 1000 <= field < 1100]
        profiling = [field for field in fields if 1000 <= field < 1100]
        watched = [*self._watch_group(plain, name), *(self._watch_group(profiling, name + b"-p") if profiling else ())]
        if not watched:
            raise SourceError(f"the host engine at {self._address} watches none of our fields: {self._why()}")
        self.fields = tuple(watched)
        self._lib.dcgmUpdateAllFields(self._handle, 1)  # so that the first reading has values; else the next has
        self._buffer = (abi.FieldValue * (max(1, len(self.devices)) * len(watched)))()

    def _why(self) -> str:
        return next(iter(self.refused.values()), "no reason given")

    def _watch_group(self, fields: Sequence[int], name: bytes) -> list[int]:
        known, group = self._field_group(list(fields), name)
        if group is None:
            return []
        self._groups.append(group)
        args = (self._handle, self._group, group, UPDATE_US, KEEP_S, KEEP_SAMPLES)
        status = self._lib.dcgmWatchFields(*args)
        if status == abi.OK:
            self._watched.append(group)
            return known
        self._over(status)
        self.refused.update(dict.fromkeys(known, f"the host engine does not watch it: {abi.explain(status)}"))
        return []

    def _field_group(self, fields: list[int], name: bytes) -> tuple[list[int], abi.Handle | None]:
        """A group of the fields, or of those that this host engine knows: older ones lack the newest."""
        group, status = self._made(fields, name)
        if status == abi.OK:
            return fields, group
        self._over(status)
        known = []
        for number in fields:
            one, status = self._made([number], name + b"-1")
            if one is not None:
                self._lib.dcgmFieldGroupDestroy(self._handle, one)
                known.append(number)
            else:
                self.refused[number] = f"this host engine does not know it: {abi.explain(status)}"
        group, _ = self._made(known, name) if known else (None, 0)
        return known, group

    def _made(self, fields: list[int], name: bytes) -> tuple[abi.Handle | None, int]:
        group = abi.Handle(0)
        numbers = (c.c_ushort * len(fields))(*fields)
        status = int(self._lib.dcgmFieldGroupCreate(self._handle, len(fields), numbers, name, c.byref(group)))
        return (group, status) if status == abi.OK else (None, status)

    def _listen(self) -> None:
        """Health and policy are extras: without them the readings are the same."""
        status = self._lib.dcgmHealthSet(self._handle, self._group, abi.HEALTH_ALL)
        if status != abi.OK:
            self.notes["health"] = f"the host engine gives no health: {abi.explain(status)}"
        status = self._lib.dcgmPolicyRegister_v2(self._handle, self._group, abi.POLICY_ALL, self._callback, 0)
        self._policies = status == abi.OK
        if not self._policies:
            self.notes["policy"] = f"the host engine gives no policy notices: {abi.explain(status)}"

    # --- reading -----------------------------------------------------------------------------------------------

    def latest(self) -> Iterator[Latest]:
        """The latest value of every watched field of every GPU. Raises SessionOver when the engine is gone."""
        if not self.devices:
            return
        gpus, fields = len(self.devices), len(self.fields)
        pairs = (abi.EntityPair * gpus)(*(abi.EntityPair(abi.ENTITY_GPU, device.gpu_id) for device in self.devices))
        numbers = (c.c_ushort * fields)(*self.fields)
        for offset in range(gpus * fields):
            self._buffer[offset].fieldId = 0  # what the engine leaves out must not look like the reading before
        status = self._lib.dcgmEntitiesGetLatestValues(self._handle, pairs, gpus, numbers, fields, 0, self._buffer)
        self._check(status, f"the latest values of the host engine at {self._address}")
        raw = memoryview(self._buffer).cast("B")
        for number in range(gpus * fields):
            yield _decoded(raw, number * _SIZE)

    def health(self) -> list[Event]:
        """What the health checks found since the last call, per GPU."""
        if "health" in self.notes:
            return []
        if not hasattr(self, "_health"):
            self._health = abi.HealthResponse()
        self._health.version = abi.HEALTH_VERSION
        self._health.incidentCount = 0
        status = self._lib.dcgmHealthCheck(self._handle, self._group, c.byref(self._health))
        self._over(status)
        if status != abi.OK:
            return []
        return [_incident(self._health.incidents[n]) for n in range(min(self._health.incidentCount, abi.MAX_INCIDENTS))]

    def events(self) -> list[Event]:
        """Policy notices since the last call."""
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._events.popleft())
        return found

    def same_devices(self) -> bool:
        """Whether the host engine still lists the GPUs of this session."""
        ids, count = (c.c_uint * abi.MAX_DEVICES)(), c.c_int()
        status = self._lib.dcgmGetAllSupportedDevices(self._handle, ids, c.byref(count))
        self._over(status)
        listed = set(ids[: max(0, min(count.value, abi.MAX_DEVICES))])
        known = {device.gpu_id for device in self.devices}
        return status != abi.OK or (listed >= known and len(listed) == self._listed())

    def _listed(self) -> int:
        return len(self.devices) + sum(name.startswith("gpus[DCGM") for name in self.notes)

    def _on_policy(self, response: Any, _user: int) -> int:
        """Called by the library's thread: takes a note and returns."""
        answer = response.contents
        word = abi.POLICY_WORDS.get(answer.condition, f"condition {answer.condition:#x}")
        xid = answer.val.number if answer.condition == abi.POLICY_XID else None
        self._events.append(Event(answer.gpuId, f"policy: {word} ({answer.val.number})", xid))
        return 0

    # --- ending ------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends watches, groups and the connection; what the engine answers to that does not matter any more."""
        if not self._open:
            return
        self._open = False
        if self._handle.value:
            if self._policies:
                self._lib.dcgmPolicyUnregister(self._handle, self._group, abi.POLICY_ALL)
            for group in self._watched:
                self._lib.dcgmUnwatchFields(self._handle, self._group, group)
            for group in self._groups:
                self._lib.dcgmFieldGroupDestroy(self._handle, group)
            if self._group.value:
                self._lib.dcgmGroupDestroy(self._handle, self._group)
            end = self._lib.dcgmStopEmbedded if self._embedded else self._lib.dcgmDisconnect
            end(self._handle)
        self._lib.dcgmShutdown()

    def _check(self, status: int, what: str) -> None:
        if status == abi.OK:
            return
        self._over(status)
        if status == abi.VER_MISMATCH:
            raise SourceError(
                f"{what}: library and host engine differ in version (DCGM code {status}); "
                "install the same DCGM 4 for both"
            )
        if status == abi.NO_PERMISSION:
            raise SourceError(f"{what} is forbidden to this user (DCGM code {status}); see docs/sources/dcgm-native.md")
        raise SourceError(f"{what}: {abi.explain(status)}; is nv-hostengine running and well?")

    def _over(self, status: int) -> None:
        if status in abi.SESSION_OVER:
            raise SessionOver(
                f"{self._address}: {abi.explain(status)}; start nv-hostengine, or correct dcgm_hostengine"
            )


def _decoded(raw: memoryview, at: int) -> Latest:
    _, _, gpu_id, field, kind, status, _, ts_us = _HEAD.unpack_from(raw, at)
    value: int | float | None = None
    if status == abi.OK and kind == ord("i"):
        value = _I64.unpack_from(raw, at + _HEAD.size)[0]
    elif status == abi.OK and kind == ord("d"):
        value = _F64.unpack_from(raw, at + _HEAD.size)[0]
    return Latest(gpu_id, field, value, status, ts_us)


def _incident(incident: Any) -> Event:
    system = abi.HEALTH_SYSTEMS.get(incident.system, f"system {incident.system:#x}")
    word = abi.HEALTH_WORDS.get(incident.health, f"result {incident.health}")
    text = " ".join(_text(incident.error.msg).split())[:300]
    gpu_id = incident.entityInfo.entityId if incident.entityInfo.entityGroupId == abi.ENTITY_GPU else -1
    return Event(gpu_id, f"health {word} of {system}: {text or f'code {incident.error.code}'}")


def _text(raw: bytes) -> str:
    text = printable(" ".join(raw.decode("utf-8", "replace").split()), 1024)
    return "" if text.startswith("<<<") and ">>>" in text else text
