"""Settings of one capper: TOML file, then EO_CAPPER_* on top. Standard library only.

No default here can cap anything: without `opt_in` and a `max_mode` above recommend, nothing is ever set.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, cast, get_args

from agents.capper.errors import SettingsError
from streams.contract.records import Mode

ENV_PREFIX: Final = "EO_CAPPER_"
ALIASES: Final = {"GPU_POWER_FLOOR": "power_floor_w", "GPU_POWER_CEILING": "power_ceiling_w"}
MODE_RANK: Final[dict[Mode, int]] = {"observe": 0, "recommend": 1, "canary": 2, "on": 3}
ACTUATORS: Final = ("nvml", "dry-run", "twin", "redfish")
TARGETS: Final = ("gpu", "node")


@dataclass(frozen=True, slots=True, kw_only=True)
class CapperSettings:
    """What this node's owner allows. Watts, MHz, seconds; None = no bound besides the device's own."""

    opt_in: bool = False  # nothing is written to hardware before its owner says so
    max_mode: Mode = "observe"  # the highest mode whose commands are obeyed here
    actuator: str = "nvml"
    power_floor_w: float | None = None  # a limit below it is refused
    power_ceiling_w: float | None = None  # a limit above it is lowered to it
    sm_floor_mhz: int | None = None  # no clock lock below it
    max_step_w: float | None = None  # largest lowering per command
    min_power_interval_s: float = 0.5  # between two changes of one GPU's limit
    min_clock_interval_s: float = 0.05  # between two changes of one GPU's lock; releasing is always allowed
    min_ttl_s: float = 1.0
    max_ttl_s: float = 30.0
    issued_window_s: float = 60.0  # how far a command's issue time may lie from this node's wall clock
    retry_s: float = 60.0  # a GPU that did not obey is left alone for so long
    restore_retry_s: float = 1.0  # between two tries to put a value back
    breaker_protected: bool = False  # true = limits protect a breaker: `hold` and `floor` on expiry are obeyed
    row_meter: bool = False  # true = the agent tells what this node's row draws; the signed brake table is obeyed
    row_budget_w: float | None = None  # what the meter is held against; None = the table's own budget
    row_meter_max_age_s: float = 5.0  # an older reading counts as the highest load
    allow_uids: tuple[int, ...] = ()  # users besides root and our own who may talk to the socket
    max_request_bytes: int = 262_144
    redfish_url: str = ""  # the BMC that the actuator "redfish" sets, e.g. https://bmc-17
    redfish_user: str = ""
    redfish_password_file: str = ""  # its first line is the password
    redfish_ca_file: str = ""  # CA of the BMC's certificate, PEM; "" = the system's
    redfish_insecure: bool = False  # true = the BMC's certificate is not checked
    redfish_target: str = "gpu"  # "gpu" = each GPU's own limit, "node" = the chassis' limit
    redfish_latency_s: float = 40.0  # how long the BMC may take until a limit shows
    redfish_allow_hard_power_off: bool = False  # true = lower limits even where the BMC would cut the power above them

    def __post_init__(self) -> None:
        _check(self)


def _check(s: CapperSettings) -> None:
    if s.max_mode not in MODE_RANK:
        raise SettingsError(f"max_mode is {s.max_mode!r}; one of {', '.join(get_args(Mode))}")
    if s.actuator not in ACTUATORS:
        raise SettingsError(f"actuator is {s.actuator!r}; one of {', '.join(ACTUATORS)}")
    for name in ("power_floor_w", "power_ceiling_w", "sm_floor_mhz", "max_step_w"):
        value = getattr(s, name)
        if value is not None and not 0 < value < 100_000:
            raise SettingsError(f"{name} is {value:g}; give a number above 0 and below 100000, or leave it out")
    if s.power_floor_w and s.power_ceiling_w and s.power_floor_w > s.power_ceiling_w:
        raise SettingsError(
            f"power_floor_w {s.power_floor_w:g} is above power_ceiling_w {s.power_ceiling_w:g}; swap or widen them"
        )
    if not 1.0 <= s.min_ttl_s <= s.max_ttl_s <= 30.0:
        raise SettingsError(
            f"min_ttl_s {s.min_ttl_s:g} and max_ttl_s {s.max_ttl_s:g} must lie within 1 to 30, in order"
        )
    for name in ("min_power_interval_s", "min_clock_interval_s", "issued_window_s", "retry_s", "restore_retry_s"):
        if not 0 <= getattr(s, name) <= 3600:
            raise SettingsError(f"{name} is {getattr(s, name):g}; give 0 to 3600 seconds")
    if s.row_budget_w is not None and not 0 < s.row_budget_w <= 1e9:
        raise SettingsError(f"row_budget_w is {s.row_budget_w:g}; give a number above 0 up to 1e9, or leave it out")
    if not 1 <= s.row_meter_max_age_s <= 60:
        raise SettingsError(f"row_meter_max_age_s is {s.row_meter_max_age_s:g}; give 1 to 60 seconds")
    if s.redfish_target not in TARGETS:
        raise SettingsError(f"redfish_target is {s.redfish_target!r}; one of {', '.join(TARGETS)}")
    if not 1 <= s.redfish_latency_s <= 300:
        raise SettingsError(f"redfish_latency_s is {s.redfish_latency_s:g}; give 1 to 300 seconds")
    if s.actuator == "redfish" and not s.redfish_url:
        raise SettingsError("actuator redfish needs a BMC; give its address by redfish_url, e.g. https://bmc-17")
    if not 1024 <= s.max_request_bytes <= 16 * 1024 * 1024:
        raise SettingsError(f"max_request_bytes is {s.max_request_bytes}; give 1024 to 16777216")


def load(path: Path | None = None, env: Mapping[str, str] = os.environ) -> CapperSettings:
    """Settings from the [capper] table of a TOML file and from the environment, which wins.

    Raises:
        SettingsError: a name that does not exist (with the nearest one), or a value out of its bounds.
    """
    settings = CapperSettings()
    if path is not None:
        settings = _merge(settings, _table(path), str(path))
    named = {name: text for name, text in env.items() if name.startswith(ENV_PREFIX)}
    found = {name.removeprefix(ENV_PREFIX).lower(): _parse(name, text) for name, text in named.items()}
    aliased = {field: _parse(name, env[name]) for name, field in ALIASES.items() if env.get(name)}
    return _merge(settings, {**aliased, **found}, "the environment")


def _table(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text()).get("capper", {}))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _parse(name: str, text: str) -> object:
    """The environment's text as the field's type."""
    field = ALIASES.get(name, name.removeprefix(ENV_PREFIX).lower())
    kind = str(_kinds().get(field, "str"))
    try:
        if kind.startswith("bool"):
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        if kind.startswith("tuple"):
            return tuple(int(part) for part in text.split(",") if part.strip())
        if kind.startswith("int"):
            return int(text)
        return float(text) if kind.startswith("float") else text
    except (ValueError, KeyError):
        raise SettingsError(f"{name} is {text!r}, which is not {kind}") from None


def _kinds() -> dict[str, object]:
    return {field.name: field.type for field in fields(CapperSettings)}


def _merge(settings: CapperSettings, found: Mapping[str, object], where: str) -> CapperSettings:
    kinds = _kinds()
    for name in found:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(kinds)}"
            raise SettingsError(f"{where} names {name!r}, which is no setting of the capper; {hint}")
    values = {name: _typed(name, value, str(kinds[name]), where) for name, value in found.items()}
    return replace(settings, **cast(dict[str, Any], values))


def _typed(name: str, value: object, kind: str, where: str) -> object:
    """TOML's value as the field's type: whole numbers count as floats, a list as a tuple; all else must fit."""
    if kind.startswith("tuple") and isinstance(value, list):
        value = tuple(value)
    if kind.startswith("float") and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = {"b": bool, "f": float, "i": int, "t": tuple, "s": str, "M": str}[kind[0]]
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise SettingsError(f"{where} sets {name} to {value!r}, which is not {kind}")
    return value
