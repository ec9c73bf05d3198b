"""Alert rules from their files: those that ship with the product, and a folder of the operator's that overrides them by
name. It reads files and judges nothing; what is wrong is said in one sentence.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from models.alerts import carbon
from models.alerts.rule import Rule, parse
from streams.errors import StreamsError

SHIPPED: Final = Path(__file__).parent / "alert_rules"
LARGEST_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class RuleBook:
    """The rules in force by name, and why the others are silent."""

    rules: Mapping[str, Rule]
    silent: Mapping[str, str]
    factors: tuple[carbon.Factor, ...] = ()


def load(folder: Path | None = None, *, location: str | None = None, factor_file: Path | None = None) -> RuleBook:
    """Every rule of the shipped files and of `folder`; same name = the folder's wins.

    Raises:
        StreamsError: a file that cannot be read, is no TOML, or is no rule; the operator's error must not go unseen.
    """
    found = {rule.name: rule for rule in map(_rule, sorted(SHIPPED.glob("*.toml")))}
    if folder is not None:
        if not folder.is_dir():
            raise StreamsError(f"the alert rule folder {folder} does not exist; make it, or unset EO_ALERT_RULES_DIR")
        found |= {rule.name: rule for rule in map(_rule, sorted(folder.glob("*.toml")))}
    found_factors, no_carbon = factors(location, factor_file)
    silent = {name: why for name, rule in found.items() if (why := _silent(rule, no_carbon))}
    rules = {name: rule for name, rule in found.items() if name not in silent}
    return RuleBook(rules, silent, found_factors)


def _silent(rule: Rule, no_carbon: str) -> str:
    if not rule.enabled:
        return "enabled = false in its file"
    if rule.kind == "carbon":
        return no_carbon or ("" if rule.threshold is not None else "no threshold (grams) is set in its file")
    if rule.threshold is None and rule.kind not in {"event", "verdict", "latency"}:
        return "no threshold is set in its file"
    return ""


def factors(location: str | None, path: Path | None) -> tuple[tuple[carbon.Factor, ...], str]:
    """The location's factors, or why there is no CO2 number. A file that is named must be good: raises StreamsError."""
    if location is None or path is None:
        missing = " and ".join(
            name for name, value in (("EO_LOCATION", location), ("EO_CARBON_FACTORS", path)) if value is None
        )
        return (), f"no location, no CO2 number: set {missing}"
    try:
        return tuple(carbon.parse(read_toml(path), location)), ""
    except ValueError as error:
        raise StreamsError(f"the carbon factor file {path}: {error}") from error


def _rule(path: Path) -> Rule:
    try:
        values = read_toml(path)
        rule = parse(path.stem, values)
    except ValueError as error:
        raise StreamsError(f"the alert rule file {path}: {error}") from error
    return rule if rule.group else replace(rule, group=rule.name)


def read_toml(path: Path) -> dict[str, Any]:
    """A small TOML file's values. Raises StreamsError when it cannot be read, ValueError when it is no TOML."""
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise ValueError(f"it has {size} bytes, at most {LARGEST_BYTES} are read; split it")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StreamsError(f"{path} cannot be read ({error.strerror}); correct the path or the rights") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no TOML ({error})") from error
