"""Actuators by their name in the settings or in a save file; the twin's are made by whoever owns its registers."""

from __future__ import annotations

from agents.capper.actuators.base import Actuator
from agents.capper.actuators.dry_run import DryRunActuator
from agents.capper.actuators.nvml import NvmlTable
from agents.capper.actuators.nvml_clock import NvmlClockActuator
from agents.capper.actuators.nvml_power import NvmlPowerActuator
from agents.capper.errors import CapperError


def make(kind: str) -> tuple[Actuator, Actuator]:
    """(power, clock) actuators of a kind. Raises CapperError for a kind that needs more than a name."""
    table = NvmlTable()
    if kind == "nvml":
        return NvmlPowerActuator(table), NvmlClockActuator(table)
    if kind == "dry-run":
        return DryRunActuator(NvmlPowerActuator(table)), DryRunActuator(NvmlClockActuator(table))
    raise CapperError(f"no actuators are made for {kind!r}; one of nvml, dry-run")
