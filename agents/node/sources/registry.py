"""The table of sources: name -> how to make one from the agent's settings. One line here per source file.

Modules are imported only when their source is chosen, so that a host without NVML never loads its bindings. The twin is
not in the table: it needs the fleet's bank and is built by the fleet.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Final, cast

from agents.node.errors import SettingsError
from agents.node.sources.base import Source

# name -> ("module:Class", one line of what it reads)
SOURCES: Final[dict[str, tuple[str, str]]] = {
    "nvml": ("agents.node.sources.nvml:NvmlSource", "NVIDIA GPUs through the driver's management library"),
    "procfs": ("agents.node.sources.procfs:ProcfsSource", "CPU, memory, network and control groups of a Linux host"),
    "replay": ("agents.node.sources.replay:ReplaySource", "a recorded file of telemetry, at any speed"),
}


def make(name: str, options: Mapping[str, object] | None = None) -> Source:
    """A source by name with its own options; raises SettingsError for an unknown name or option."""
    if name not in SOURCES:
        raise SettingsError(f"source {name!r} does not exist; choose among {', '.join(SOURCES)}")
    module, _, attribute = SOURCES[name][0].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    try:
        return cast(Source, factory(**(options or {})))
    except TypeError as error:
        raise SettingsError(f"source {name!r} does not take these options: {error}") from error
