"""Actuators by their name in the settings or in a save file; the twin's are made by whoever owns its registers."""

from __future__ import annotations

from agents.capper.actuators.base import Actuator
from agents.capper.actuators.dry_run import DryRunActuator
from agents.capper.actuators.nvml import NvmlTable
from agents.capper.actuators.nvml_clock import NvmlClockActuator
from agents.capper.actuators.nvml_power import NvmlPowerActuator
from agents.capper.errors import CapperError
from agents.capper.settings import CapperSettings


def make(kind: str, settings: CapperSettings | None = None) -> tuple[Actuator, Actuator | None]:
    """(power, clock) actuators of a kind. Raises CapperError for a kind that needs more than is given."""
    if kind == "redfish":
        return _redfish(settings or CapperSettings()), None
    table = NvmlTable()
    if kind == "nvml":
        return NvmlPowerActuator(table), NvmlClockActuator(table)
    if kind == "dry-run":
        return DryRunActuator(NvmlPowerActuator(table)), DryRunActuator(NvmlClockActuator(table))
    raise CapperError(f"no actuators are made for {kind!r}; one of nvml, dry-run, redfish")


def _redfish(s: CapperSettings) -> Actuator:
    from agents.capper.actuators.redfish import RedfishPowerActuator
    from agents.capper.actuators.redfish_http import BmcClient

    if not s.redfish_url:
        raise CapperError("the values were set through a BMC; give its address by EO_CAPPER_REDFISH_URL")
    client = BmcClient(
        s.redfish_url,
        user=s.redfish_user,
        password_file=s.redfish_password_file,
        ca_file=s.redfish_ca_file,
        insecure=s.redfish_insecure,
    )
    return RedfishPowerActuator(
        client,
        target=s.redfish_target,
        latency_s=s.redfish_latency_s,
        allow_hard_power_off=s.redfish_allow_hard_power_off,
    )
