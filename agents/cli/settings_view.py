"""Every setting of every process with its value and where it comes from. Reads the classes, starts nothing."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from agents.cli.known_names import KAFKA_NAMES, PREFIX, known_names

Origin = Literal["env", "file", "default"]
SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|_PEM$", re.IGNORECASE)
WORKER: Final = ("streams.settings", "WorkerSettings")
LIGHT: Final = {
    "agent": ("agents.node.settings", "NodeSettings"),
    "capper": ("agents.capper.settings", "CapperSettings"),
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as a process would see it now; secrets are shown as ***."""

    name: str
    value: str
    origin: Origin
    process: str

    def as_dict(self) -> dict[str, str]:
        return dataclasses.asdict(self)


def settings(env: Mapping[str, str]) -> list[Setting]:
    """All settings, sorted by process and name; names that only the environment knows come as process "all"."""
    rows = [*_worker(env), *_light(env)]
    seen = {row.name for row in rows}
    for name in sorted(known_names() - seen - KAFKA_NAMES | {"KAFKA_BOOTSTRAP"}):
        rows.append(Setting(name, _shown(name, env.get(name)), "env" if name in env else "default", "all"))
    rows += [Setting(name, _shown(name, env[name]), "env", "all") for name in sorted(KAFKA_NAMES) if name in env]
    return rows


def problems(env: Mapping[str, str]) -> list[str]:
    """What the settings classes themselves refuse, one sentence each."""
    found = []
    for _, (module, name) in {"worker": WORKER, **LIGHT}.items():
        cls = _class(module, name)
        if cls is None:
            continue
        try:
            _load(cls, env)
        except ValueError as error:  # pydantic's ValidationError is one
            found += _sentences(error)
    return found


def _class(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        return None


def _load(cls: Any, env: Mapping[str, str]) -> Any:
    for maker in ("from_env", "load"):
        if hasattr(cls, maker):
            return getattr(cls, maker)(env)
    return cls()


def _worker(env: Mapping[str, str]) -> list[Setting]:
    cls = _class(*WORKER)
    if cls is None or not hasattr(cls, "model_fields"):
        return []
    try:
        loaded = _load(cls, env)
    except ValueError:
        loaded = None  # `eo config check` says why; the names are worth showing all the same
    rows = []
    for field in cls.model_fields:
        name = PREFIX + field.upper()
        value = getattr(loaded, field, env.get(name))
        given = loaded is not None and field in loaded.model_fields_set
        origin: Origin = "env" if name in env else "file" if given else "default"
        rows.append(Setting(name, _shown(name, value), origin, "worker"))
    return rows


def _light(env: Mapping[str, str]) -> list[Setting]:
    rows: list[Setting] = []
    for process, (module, name) in LIGHT.items():
        cls = _class(module, name)
        if cls is None or not dataclasses.is_dataclass(cls):
            continue
        try:
            loaded = _load(cls, env)
        except (ValueError, TypeError):
            continue
        for field in dataclasses.fields(cls):
            known = f"{PREFIX}{process.upper()}_{field.name.upper()}"
            shown = known if known in known_names() else PREFIX + field.name.upper()
            value = getattr(loaded, field.name)
            origin: Origin = "env" if shown in env else "default" if value == _default(field) else "file"
            rows.append(Setting(shown, _shown(shown, value), origin, process))
    return rows


def _default(field: Any) -> object:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _shown(name: str, value: object) -> str:
    if value is None or value == "":
        return "-"
    return "***" if SECRET.search(name) else str(value)


def _sentences(error: ValueError) -> list[str]:
    details = getattr(error, "errors", None)
    if not callable(details):
        return [str(error)]
    return [
        f"{PREFIX}{'_'.join(map(str, one['loc'])).upper()}={one.get('input')!r}: {one['msg']}." for one in details()
    ]
