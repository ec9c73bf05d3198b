"""The part of libdcgm.so.4's binary interface that the native source uses: structures, constants, prototypes.

Held to NVIDIA's headers by a test that compiles them: sizes, offsets and version words. Parts of a structure that
nobody reads stand here as plain bytes. Nothing is loaded at import.
"""

from __future__ import annotations

import ctypes as c
from typing import Any, Final

LIBRARY: Final = "libdcgm.so.4"
OTHER_LIBRARIES: Final = ("libdcgm.so.3", "libdcgm.so.2")

OK, BADPARAM, NOT_SUPPORTED, UNINITIALIZED, TIMEOUT, VER_MISMATCH, UNKNOWN_FIELD = 0, -1, -6, -10, -11, -12, -13
NO_DATA, NO_PERMISSION, GPU_IS_LOST, RESET_REQUIRED, CONNECTION_NOT_VALID, GPUS_DETACHED = -14, -17, -18, -19, -21, -67
STATUS_TEXTS: Final = {
    BADPARAM: "bad parameter", -3: "generic error", -4: "out of memory", -5: "not configured",
    NOT_SUPPORTED: "not supported", -7: "initialisation error", -8: "NVML error", UNINITIALIZED: "not initialised",
    TIMEOUT: "timed out", VER_MISMATCH: "version mismatch", UNKNOWN_FIELD: "unknown field", NO_DATA: "no data yet",
    -15: "stale data", -16: "not watched", NO_PERMISSION: "no permission", GPU_IS_LOST: "GPU is lost",
    RESET_REQUIRED: "GPU needs a reset", CONNECTION_NOT_VALID: "the host engine is not reachable",
    -22: "GPU not supported", -29: "the host engine must run as root for it", -32: "field not served by this call",
    -33: "its module is not loaded", -36: "profiling is not supported", -37: "profiling failed",
    -38: "these profiling fields cannot be read together", -54: "the host engine is paused", -56: "NVML is not loaded",
    -57: "the driver timed out", GPUS_DETACHED: "GPUs are detached",
}  # fmt: skip
# After these the session is over and must be made again.
SESSION_OVER: Final = frozenset({UNINITIALIZED, CONNECTION_NOT_VALID, GPUS_DETACHED})

MAX_DEVICES: Final = 32
STRING: Final = 256
BLOB: Final = 4096
MAX_INCIDENTS: Final = 1024
GROUP_DEFAULT: Final = 0  # all GPUs of the node
ENTITY_GPU: Final = 1
OPERATION_AUTO: Final = 1
HEALTH_ALL: Final = 0xFFFFFFFF
HEALTH_WORDS: Final = {0: "pass", 10: "warning", 20: "failure"}
HEALTH_SYSTEMS: Final = {
    0x1: "PCIe", 0x2: "NVLink", 0x4: "power management unit", 0x8: "micro-controller", 0x10: "memory", 0x20: "SM",
    0x40: "InfoROM", 0x80: "thermal", 0x100: "power", 0x200: "driver", 0x400: "NVSwitch", 0x800: "NVSwitch",
    0x1000: "ConnectX", 0x2000: "IMEX",
}  # fmt: skip
POLICY_XID: Final = 0x40
POLICY_ALL: Final = 0x7F
POLICY_WORDS: Final = {
    0x1: "double bit error", 0x2: "PCIe replays", 0x4: "retired pages", 0x8: "temperature", 0x10: "power",
    0x20: "NVLink error", POLICY_XID: "Xid",
}  # fmt: skip

Handle = c.c_size_t  # uintptr_t


class ConnectParams(c.Structure):
    """dcgmConnectV2Params_v2."""

    _fields_ = (
        ("version", c.c_uint),
        ("persistAfterDisconnect", c.c_uint),
        ("timeoutMs", c.c_uint),
        ("addressIsUnixSocket", c.c_uint),
    )


class EmbeddedParams(c.Structure):
    """dcgmStartEmbeddedV2Params_v1, the form that every release of 4 takes."""

    _fields_ = (
        ("version", c.c_uint),
        ("opMode", c.c_int),
        ("dcgmHandle", Handle),
        ("logFile", c.c_char_p),
        ("severity", c.c_int),
        ("denyListCount", c.c_uint),
        ("denyList", c.c_uint * 10),
    )


class EntityPair(c.Structure):
    """dcgmGroupEntityPair_t."""

    _fields_ = (("entityGroupId", c.c_int), ("entityId", c.c_uint))


class Value(c.Union):
    """The value of a dcgmFieldValue_v2."""

    _fields_ = (("i64", c.c_int64), ("dbl", c.c_double), ("str", c.c_char * STRING), ("blob", c.c_char * BLOB))


class FieldValue(c.Structure):
    """dcgmFieldValue_v2."""

    _fields_ = (
        ("version", c.c_uint),
        ("entityGroupId", c.c_int),
        ("entityId", c.c_uint),
        ("fieldId", c.c_ushort),
        ("fieldType", c.c_ushort),
        ("status", c.c_int),
        ("unused", c.c_uint),
        ("ts", c.c_int64),
        ("value", Value),
    )


class Identifiers(c.Structure):
    """dcgmDeviceIdentifiers_v1."""

    _fields_ = (
        ("version", c.c_uint),
        ("brandName", c.c_char * STRING),
        ("deviceName", c.c_char * STRING),
        ("pciBusId", c.c_char * STRING),
        ("serial", c.c_char * STRING),
        ("uuid", c.c_char * STRING),
        ("vbios", c.c_char * STRING),
        ("inforomImageVersion", c.c_char * STRING),
        ("pciDeviceId", c.c_uint),
        ("pciSubSystemId", c.c_uint),
        ("driverVersion", c.c_char * STRING),
        ("virtualizationMode", c.c_uint),
    )


class DeviceAttributes(c.Structure):
    """dcgmDeviceAttributes_v3; what stands before and after the identifiers is not read here."""

    _fields_ = (
        ("version", c.c_uint),
        ("before", c.c_uint * 779),
        ("identifiers", Identifiers),
        ("after", c.c_uint * 9),
    )


class ErrorDetail(c.Structure):
    """dcgmDiagErrorDetail_t."""

    _fields_ = (("msg", c.c_char * 1024), ("code", c.c_uint))


class Incident(c.Structure):
    """dcgmIncidentInfo_t."""

    _fields_ = (("system", c.c_uint), ("health", c.c_uint), ("error", ErrorDetail), ("entityInfo", EntityPair))


class HealthResponse(c.Structure):
    """dcgmHealthResponse_v5."""

    _fields_ = (
        ("version", c.c_uint),
        ("overallHealth", c.c_uint),
        ("incidentCount", c.c_uint),
        ("incidents", Incident * MAX_INCIDENTS),
    )


class Violation(c.Structure):
    """What every member of the union in a policy's answer begins with: time, then a number of its own kind."""

    _fields_ = (("timestamp", c.c_longlong), ("number", c.c_uint), ("more", c.c_uint))


class PolicyResponse(c.Structure):
    """dcgmPolicyCallbackResponse_v2."""

    _fields_ = (("version", c.c_uint), ("condition", c.c_uint), ("val", Violation), ("gpuId", c.c_uint))


class VersionInfo(c.Structure):
    """dcgmVersionInfo_v2."""

    _fields_ = (("version", c.c_uint), ("rawBuildInfoString", c.c_char * (2 * STRING)))


PolicyCallback = c.CFUNCTYPE(c.c_int, c.POINTER(PolicyResponse), c.c_uint64)


def version(struct: type[c.Structure], number: int) -> int:
    """The version word that DCGM wants as a structure's first member: its size and its number."""
    return c.sizeof(struct) | (number << 24)


CONNECT_VERSION: Final = version(ConnectParams, 2)
EMBEDDED_VERSION: Final = version(EmbeddedParams, 1)
ATTRIBUTES_VERSION: Final = version(DeviceAttributes, 3)
HEALTH_VERSION: Final = version(HealthResponse, 5)
VERSION_INFO_VERSION: Final = version(VersionInfo, 2)

# name -> types of its arguments; every function returns dcgmReturn_t.
FUNCTIONS: Final[dict[str, tuple[Any, ...]]] = {
    "dcgmInit": (),
    "dcgmShutdown": (),
    "dcgmConnect_v2": (c.c_char_p, c.POINTER(ConnectParams), c.POINTER(Handle)),
    "dcgmDisconnect": (Handle,),
    "dcgmStartEmbedded_v2": (c.POINTER(EmbeddedParams),),
    "dcgmStopEmbedded": (Handle,),
    "dcgmHostengineVersionInfo": (Handle, c.POINTER(VersionInfo)),
    "dcgmGetAllSupportedDevices": (Handle, c.c_uint * MAX_DEVICES, c.POINTER(c.c_int)),
    "dcgmGetDeviceAttributes": (Handle, c.c_uint, c.POINTER(DeviceAttributes)),
    "dcgmGroupCreate": (Handle, c.c_int, c.c_char_p, c.POINTER(Handle)),
    "dcgmGroupDestroy": (Handle, Handle),
    "dcgmFieldGroupCreate": (Handle, c.c_int, c.POINTER(c.c_ushort), c.c_char_p, c.POINTER(Handle)),
    "dcgmFieldGroupDestroy": (Handle, Handle),
    "dcgmWatchFields": (Handle, Handle, Handle, c.c_longlong, c.c_double, c.c_int),
    "dcgmUnwatchFields": (Handle, Handle, Handle),
    "dcgmUpdateAllFields": (Handle, c.c_int),
    "dcgmEntitiesGetLatestValues": (
        Handle, c.POINTER(EntityPair), c.c_uint, c.POINTER(c.c_ushort), c.c_uint, c.c_uint, c.POINTER(FieldValue),
    ),
    "dcgmHealthSet": (Handle, Handle, c.c_uint),
    "dcgmHealthCheck": (Handle, Handle, c.POINTER(HealthResponse)),
    "dcgmPolicyRegister_v2": (Handle, Handle, c.c_uint, PolicyCallback, c.c_uint64),
    "dcgmPolicyUnregister": (Handle, Handle, c.c_uint),
}  # fmt: skip


def bind(library: Any) -> None:
    """Sets the prototypes; raises AttributeError with the name of a function that the library lacks."""
    for name, arguments in FUNCTIONS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, c.c_int


def explain(status: int) -> str:
    """A status code in words."""
    return STATUS_TEXTS.get(status, "error") + f" (DCGM code {status})"
