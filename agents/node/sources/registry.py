"""The table of sources: name -> how to make one from the agent's settings. One line here per source file.

Modules are imported only when their source is chosen, so that a host without NVML never loads its bindings. The twin is
not in the table: it needs the fleet's bank and is built by the fleet.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from agents.node.errors import SettingsError
from agents.node.sources.base import Source


@dataclass(frozen=True, slots=True)
class Entry:
    """One source: its class as "module:Class", and what it reads in one line.

    Attributes:
        takes: where it can read from, of "url", "file", "root"; the class has a keyword of that name ("file:path" when
            the keyword is called otherwise). A path without a flag means the first of them that is no URL.
        needs: what must be given, with an example; "" when it reads this machine without being told where.
        twice: a single reading takes two with a pause, because rates come from two counters.
        slow: it waits for a network or a program, so the agent reads it at the side (sources/background.py).
        every_s: pause between two readings at the side; never below the agent's own.
        once: options of a single reading, beyond the agent's settings.
        patience_s: how long a single reading may wait for one answer, where a person waits; the agent waits less. 0 =
            it waits for nobody.
    """

    factory: str
    help: str
    takes: tuple[str, ...] = ()
    needs: str = ""
    twice: bool = False
    slow: bool = False
    every_s: float = 1.0
    once: Mapping[str, object] = field(default_factory=dict)
    patience_s: float = 0.0

    @property
    def keywords(self) -> dict[str, str]:
        """Flag -> keyword of the class."""
        pairs = (word.partition(":") for word in self.takes)
        return {flag: keyword or flag for flag, _, keyword in pairs}


_ROOM: Final = "agents.node.sources"
# Names have "-"; "_" is understood too.
SOURCES: Final[dict[str, Entry]] = {
    "nvml": Entry(f"{_ROOM}.nvml:NvmlSource", "NVIDIA GPUs through the driver's management library"),
    "procfs": Entry(
        f"{_ROOM}.procfs:ProcfsSource", "CPU, memory, network and control groups of a Linux host", ("root",), twice=True
    ),
    "dcgm": Entry(
        f"{_ROOM}.dcgm:DcgmSource",
        "NVIDIA GPUs through dcgm-exporter's metrics text",
        ("url", "file"),
        slow=True,
        patience_s=5.0,
    ),
    "dcgm-native": Entry(
        f"{_ROOM}.dcgm_native:DcgmNativeSource",
        "NVIDIA GPUs through libdcgm.so.4 and a running nv-hostengine",
        ("url:hostengine",),
        slow=True,
    ),
    "nvidia-smi": Entry(
        f"{_ROOM}.nvidia_smi:NvidiaSmiSource",
        "NVIDIA GPUs through the program nvidia-smi, where NVML is not allowed",
        ("file",),
        slow=True,
        every_s=5.0,
        patience_s=10.0,
    ),
    "rapl": Entry(
        f"{_ROOM}.rapl:RaplSource", "CPU, DRAM and platform power from the kernel's counters", ("root",), twice=True
    ),
    "redfish": Entry(
        f"{_ROOM}.redfish:RedfishSource",
        "a BMC: chassis, GPU and supply power, limits, fans, temperatures",
        ("url", "root"),
        needs="a BMC or a recorded tree: eo read redfish --url https://HOST",
        slow=True,
        every_s=10.0,
        patience_s=10.0,
    ),
    "ipmi": Entry(
        f"{_ROOM}.ipmi:IpmiSource",
        "a BMC through ipmitool: DCMI power, else its sensors",
        ("url", "file"),
        slow=True,
        every_s=10.0,
        patience_s=10.0,
    ),
    "replay": Entry(
        f"{_ROOM}.replay:ReplaySource",
        "a recorded file of telemetry, at any speed",
        ("file:path",),
        needs="a recording: eo read replay FILE",
        once={"speed": 0},
    ),
}


def _engine(module: str, cls: str, title: str) -> Entry:
    """A serving engine; the agent reads those of its settings, through the source "engines"."""
    about = f"{title}'s metrics text: requests, KV cache, tokens, latency histograms"
    return Entry(f"{_ROOM}.engines.{module}:{cls}", about, ("url", "file"), once={"since_start": True}, patience_s=5.0)


SOURCES.update(
    {
        "vllm": _engine("vllm", "VllmSource", "vLLM"),
        "triton": _engine("triton", "TritonSource", "Triton"),
        "tensorrt-llm": _engine("tensorrt_llm", "TensorRtLlmSource", "TensorRT-LLM"),
        "sglang": _engine("sglang", "SglangSource", "SGLang"),
        "tgi": _engine("tgi", "TgiSource", "TGI"),
        "onnxruntime": _engine("onnxruntime", "OnnxRuntimeSource", "ONNX Runtime"),
        "training": Entry(
            f"{_ROOM}.engines.training:TrainingSource",
            "a training job's own text: steps done, their durations, waits",
            ("url", "file"),
            once={"since_start": True},
        ),
        "engines": Entry(
            f"{_ROOM}.engines.poll:EnginesSource",
            "every engine that the agent's settings name",
            once={"at_once": True},
            patience_s=5.0,
        ),
    }
)


def canonical(name: str) -> str:
    """The table's spelling of a source's name; raises SettingsError, with the nearest one, for an unknown name."""
    known = name.strip().lower().replace("_", "-")
    if known not in SOURCES:
        twisted = [source for source in SOURCES if sorted(source) == sorted(known)]  # nvlm is nvml, not vllm
        near = twisted or difflib.get_close_matches(known, SOURCES, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise SettingsError(f"source {name!r} does not exist; {hint}choose among {', '.join(SOURCES)}")
    return known


def make(name: str, options: Mapping[str, object] | None = None) -> Source:
    """A source by name with its own options; raises SettingsError for an unknown name or option."""
    entry = SOURCES[canonical(name)]
    module, _, attribute = entry.factory.partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    try:
        return cast(Source, factory(**(options or {})))
    except TypeError as error:
        raise SettingsError(f"source {name!r} does not take these options: {error}") from error
