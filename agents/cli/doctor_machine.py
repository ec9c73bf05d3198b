"""What `eo doctor` looks at on this machine. No network, nothing written but a probe file in the data folder."""

from __future__ import annotations

import ctypes
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from agents.cli.base import EoError
from agents.cli.brokers import container, kafka_jars, lifecycle, mesh
from agents.cli.brokers.unavailable import Unavailable
from agents.cli.doctor_check import Check, guarded
from streams.contract.layout import Layout

FREE_BYTES: Final = 2 * 1024**3  # a day of the demo and Kafka's segments
NVML: Final = "libnvidia-ml.so.1"


def checks(layout: Layout, env: Mapping[str, str], *, nvml: str = NVML) -> list[Check]:
    """Every check, in the order in which a newcomer needs them."""
    return [
        guarded("python", lambda: python_version(sys.version_info[:3])),
        *broker_kinds(env),
        guarded("broker", lambda: _broker(layout, env), otherwise="warn"),
        guarded("GPUs (NVML)", lambda: gpus(nvml), otherwise="warn"),
        guarded("data folder", lambda: data_folder(layout.root)),
        _keys(layout),
        _settings(layout, env),
    ]


def python_version(version: tuple[int, int, int]) -> str:
    """The version, 3.11 or later; raises EoError."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        raise EoError(f"Python {text} runs and 3.11 is the least; make the environment with a newer one: `make deps`.")
    return f"{text} ({platform.machine()})"


def broker_kinds(env: Mapping[str, str]) -> list[Check]:
    """Each way to a broker on this machine; a missing one is worth a note, and a failure when all are missing."""
    found = [
        _kind("Java", lambda: kafka_jars.java(env)),
        _kind("Maven or jars", lambda: _jars(env)),
        _kind("container engine", lambda: container.engine(env)),
        _kind("mesh wheel", mesh.program),
    ]
    java, maven, engine, wheel = (check.verdict == "ok" for check in found)
    if (java and maven) or engine or wheel or env.get("KAFKA_BOOTSTRAP"):
        return found
    return [replace(check, verdict="fail") if check.verdict == "note" else check for check in found]


def _kind(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except Unavailable as reason:
        return Check(name, "note", f"{reason}.")


def _jars(env: Mapping[str, str]) -> str:
    cache = kafka_jars.cache_folder(env)
    if (cache / kafka_jars.COMPLETE).exists():
        return f"Kafka's jars are in {cache}"
    if (maven := shutil.which("mvn", path=env.get("PATH"))) is None:
        raise Unavailable(f"no `mvn` on the PATH and no Kafka jars in {cache} yet; install Maven 3.6 or later")
    return f"{maven} (the first `eo broker up` fetches 43 MB of jars)"


def _broker(layout: Layout, env: Mapping[str, str]) -> str:
    bootstrap = lifecycle.resolve_bootstrap(layout, env)
    return f"{bootstrap}; `eo doctor kafka` looks closer"


def gpus(library: str = NVML) -> str:
    """How many GPUs the driver shows; raises EoError with NVML's own reason. Reads only."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError as error:
        raise EoError(
            f"no NVIDIA driver library {library} here: the node agent sends host readings only; install the driver, "
            "or see the loop on simulated GPUs with `eo demo`."
        ) from error
    nvml.nvmlErrorString.restype = ctypes.c_char_p
    count = ctypes.c_uint()
    code = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    if code:
        raise EoError(f"NVML says {nvml.nvmlErrorString(code).decode()!r} (code {code}); `nvidia-smi` tells more.")
    return f"{count.value} GPUs"


def data_folder(folder: Path) -> str:
    """Writable, with room; raises EoError with the value and the bound."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            pass
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise EoError(
            f"the data folder {folder} cannot be written ({error.strerror}); give this user the right, or set "
            "EO_DATA_DIR to another folder."
        ) from error
    if free < FREE_BYTES:
        raise EoError(
            f"the data folder {folder} has {free / 1e9:.1f} GB free and {FREE_BYTES / 1e9:.1f} GB is the least; free "
            "space there, or set EO_DATA_DIR to another folder."
        )
    return f"{folder} ({free / 1e9:.0f} GB free)"


def _keys(layout: Layout) -> Check:
    from agents.cli.config import key_problems

    if found := key_problems(layout):
        return Check("signing keys", "fail", " ".join(found))
    missing = [path.name for path in (layout.actuation_key, layout.operator_key, layout.keyring) if not path.exists()]
    if missing:
        return Check(
            "signing keys", "warn", f"{', '.join(missing)} not made yet: `eo config keys` (the demo makes its own)."
        )
    return Check("signing keys", "ok", str(layout.keys))


def _settings(layout: Layout, env: Mapping[str, str]) -> Check:
    from agents.cli.config import check

    found = [problem for problem in check(layout, env) if str(layout.keys) not in problem]
    named = sum(name.startswith("EO_") for name in env)
    return Check("settings", "fail" if found else "ok", " ".join(found) or f"{named} EO_ names set, all known")
