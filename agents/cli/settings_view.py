"""Every setting of every process with its value and where it comes from. Reads the settings classes, starts nothing."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from agents.cli.known_names import KAFKA_NAMES, PREFIX, known_names

Origin = Literal["env", "file", "default"]
SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|_PEM$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as a process started now would see it; secrets are shown as ***."""

    name: str
    value: str
    origin: Origin
    process: str


def settings(env: Mapping[str, str], file: Path | None = None) -> list[Setting]:
    """All settings: the worker's, the node agent's, the capper's, then names that several processes read."""
    rows = [*_worker(env), *(row for light in LIGHT for row in _light(light, env, file))]
    known = {row.name for row in rows}
    shared = known_names() - KAFKA_NAMES | {"KAFKA_BOOTSTRAP"}
    names = [*sorted(shared - known), *sorted(name for name in KAFKA_NAMES if name in env)]
    return rows + [_setting(name, env.get(name), "all", env) for name in names]


def problems(env: Mapping[str, str], file: Path | None = None) -> list[str]:
    """What the settings classes themselves refuse, one sentence each."""
    found = []
    try:
        importlib.import_module("streams.settings").from_env()
    except ValueError as error:
        found += _sentences(error)
    for light in LIGHT:
        try:
            light.load(env, file)
        except light.refusal() as error:
            found.append(f"{str(error).rstrip('.')}.")
    return found


@dataclass(frozen=True, slots=True)
class Light:
    """A process whose settings are a plain dataclass from a TOML file and the environment."""

    process: str
    room: str

    def module(self) -> Any:
        return importlib.import_module(f"{self.room}.settings")

    def refusal(self) -> type[Exception]:
        refused: type[Exception] = importlib.import_module(f"{self.room}.errors").SettingsError
        return refused

    def load(self, env: Mapping[str, str], file: Path | None) -> Any:
        """The settings as the process would have them. The agent's file is named in its environment."""
        module = self.module()
        if self.process == "capper":
            return module.load(file, env)
        return module.NodeSettings.from_env({**env, **({module.CONFIG_NAME: str(file)} if file else {})})


LIGHT: Final = (Light("agent", "agents.node"), Light("capper", "agents.capper"))


def _setting(name: str, value: object, process: str, env: Mapping[str, str], *, from_file: bool = False) -> Setting:
    hidden = SECRET.search(name) is not None
    plain = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = "-" if value is None or plain == "" else "***" if hidden else plain
    return Setting(name, text, "env" if name in env else "file" if from_file else "default", process)


def _worker(env: Mapping[str, str]) -> list[Setting]:
    module = importlib.import_module("streams.settings")
    try:
        loaded = module.from_env()
    except ValueError:
        loaded = None  # `eo config check` says why; the names are worth showing all the same
    rows = []
    for field, about in module.WorkerSettings.model_fields.items():
        aliases = [str(one) for one in getattr(about.validation_alias, "choices", ())]
        name = next((one for one in aliases if one in env), aliases[0] if aliases else PREFIX + field.upper())
        rows.append(_setting(name, getattr(loaded, field, env.get(name)), "worker", env))
    return rows


def _light(light: Light, env: Mapping[str, str], file: Path | None) -> list[Setting]:
    named = {name: text for name, text in env.items() if name.endswith("_CONFIG")}
    try:
        plain, filed, loaded = light.load({}, None), light.load(named, file), light.load(env, file)
    except light.refusal():
        return []  # `eo config check` says why
    prefix = light.module().ENV_PREFIX
    return [
        _setting(
            prefix + field.name.upper(),
            getattr(loaded, field.name),
            light.process,
            env,
            from_file=getattr(filed, field.name) != getattr(plain, field.name),
        )
        for field in dataclasses.fields(loaded)
    ]


def _sentences(error: ValueError) -> list[str]:
    """pydantic's errors with our names: the name, the value, what it should be."""
    details = getattr(error, "errors", None)
    if not callable(details):
        return [str(error)]
    return [_sentence(one) for one in details()]


def _sentence(one: Mapping[str, Any]) -> str:
    place = "_".join(map(str, one["loc"]))
    told = str(one["msg"]).removeprefix("Value error, ").rstrip(".")
    if not place:
        return f"{told}."
    name = place if place.isupper() else PREFIX + place.upper()
    return f"{name} is {one.get('input')!r}: {told[:1].lower()}{told[1:]}."
