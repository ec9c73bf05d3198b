"""The demo's alert rules: the shipped ones with shorter windows (demo_rules.toml), in a folder of the demo's own.

Production rules are not touched: only the demo's worker is pointed at the folder (EO_ALERT_RULES_DIR).
"""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Final

from agents.fleet import grid
from agents.fleet.registers import DeviceSpec
from models.alerts.carbon import J_PER_KWH
from models.alerts.rule import Rule, parse
from streams.jobs.alerts_rules import SHIPPED

FOLDER: Final = "alert_rules"
CARBON: Final = "carbon_budget"


def changes() -> dict[str, dict[str, Any]]:
    """What the demo changes, by rule."""
    return tomllib.loads(resources.files("agents.cli").joinpath("demo_rules.toml").read_text(encoding="utf-8"))


def rules(gpus: int) -> dict[str, dict[str, Any]]:
    """The changed rules as values, for a fleet of so many GPUs."""
    out = {}
    for name, changed in changes().items():
        values = tomllib.loads((SHIPPED / f"{name}.toml").read_text(encoding="utf-8"))
        options = {**values.get("options", {}), **changed.get("options", {})}
        out[name] = {**values, **changed, "options": options}
    window_s = float(out[CARBON]["options"]["window_h"]) * 3600.0
    out[CARBON]["threshold"] = round(budget_g(gpus, window_s), 3)
    return out


def budget_g(gpus: int, window_s: float) -> float:
    """Grams that all GPUs emit in a window at their default limits on the clean grid: a sound fleet stays below."""
    return gpus * DeviceSpec().limit_default_w * window_s / J_PER_KWH * grid.CLEAN_G_PER_KWH


def write(root: Path, gpus: int) -> Path:
    """Writes the rules below a demo's data folder; gives the folder."""
    folder = root / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in rules(gpus).items():
        parse(name, values)  # a rule that the worker would refuse is found here
        (folder / f"{name}.toml").write_text(_toml(values), encoding="utf-8")
    return folder


def _toml(values: dict[str, Any]) -> str:
    """Plain values and one table; a JSON scalar is a TOML scalar."""
    flat = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key != "options"]
    options = [f"{key} = {json.dumps(value)}" for key, value in values.get("options", {}).items()]
    return "\n".join(["# Written by a demo: shipped rule, short windows.", *flat, "", "[options]", *options]) + "\n"


def told(gpus: int) -> str:
    """One line that says what is different."""
    found = {name: parse(name, values) for name, values in rules(gpus).items()}
    return "alert rules have a demo's windows: " + ", ".join(_short(rule) for rule in found.values())


def _short(rule: Rule) -> str:
    """A rule with the time that is short in a demo."""
    window_s = rule.threshold if rule.kind == "silence" else None
    for option, seconds in (("window_s", 1.0), ("window_h", 3600.0), ("hold_s", 1.0)):
        if option in rule.options:
            window_s = rule.number(option) * seconds
    return f"{rule.name} {window_s:.0f} s"
