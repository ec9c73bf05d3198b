"""The engines that a node serves: one table each in the agent's TOML, or a line of text in its environment.

[[node.engine]]
kind = "vllm"                                  # vllm, triton, tensorrt-llm, sglang, tgi, onnxruntime, training
url = "http://127.0.0.1:8000/metrics"
gpus = [0, 1]                                  # indices on this node, or UUIDs; without them no clock is touched
name = "chat-0"                                # the rest may be left out
stack = "llama-3.1-70b/bf16/vllm/h100x4"
workload = "llm-conversation"

EO_NODE_ENGINE="vllm http://127.0.0.1:8000/metrics gpus=0,1 name=chat-0; tgi http://127.0.0.1:8080/metrics gpus=2"
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final
from urllib.parse import urlsplit

from agents.node.errors import SettingsError

KINDS: Final = ("vllm", "triton", "tensorrt-llm", "sglang", "tgi", "onnxruntime", "training")
MOST_ENGINES: Final = 64  # each is one thread of the agent


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """One serving engine of this node."""

    kind: str
    url: str
    gpus: tuple[str, ...] = ()
    name: str = ""
    stack: str = ""
    workload: str = ""
    steps: str = ""  # of a training job: length of the run
    group: str = ""  # of a rank: the data-parallel job that it belongs to; its ranks here are planned together

    def __str__(self) -> str:
        rest = {"gpus": ",".join(self.gpus), "name": self.name, "stack": self.stack, "workload": self.workload}
        rest |= {"steps": self.steps, "group": self.group}
        return " ".join([self.kind, self.url, *(f"{key}={value}" for key, value in rest.items() if value)])


_NAMES: Final = tuple(field.name for field in fields(EngineSettings))


def from_text(text: str, where: str) -> tuple[EngineSettings, ...]:
    """Engines from the environment's form: KIND URL key=value ..., several with ";" between."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        words = part.split()
        if len(words) < 2 or any("=" not in word for word in words[2:]):
            raise SettingsError(
                f"{where} is {part!r}; give KIND URL and then key=value, e.g. vllm http://host/metrics gpus=0"
            )
        given: dict[str, object] = {"kind": words[0], "url": words[1]}
        for word in words[2:]:
            key, _, value = word.partition("=")
            given[key] = value.split(",") if key == "gpus" else value
        found.append(given)
    return from_tables(found, where)


def from_tables(tables: object, where: str) -> tuple[EngineSettings, ...]:
    """Engines from TOML tables; raises SettingsError for what does not fit, with the engine's number."""
    rows = [tables] if isinstance(tables, Mapping) else tables
    if not isinstance(rows, list | tuple):
        raise SettingsError(f"{where} sets engine to {rows!r}; write it as tables [[node.engine]]")
    if len(rows) > MOST_ENGINES:
        raise SettingsError(f"{where} names {len(rows)} engines and {MOST_ENGINES} is the most of one agent")
    found = tuple(_one(row, f"{where}, engine {number}") for number, row in enumerate(rows, 1))
    for name in {engine.name for engine in found if engine.name}:
        if sum(engine.name == name for engine in found) > 1:
            raise SettingsError(f"{where} names two engines {name!r}; names must differ in the whole cluster")
    return found


def _one(row: object, where: str) -> EngineSettings:
    if isinstance(row, EngineSettings):
        return row
    if not isinstance(row, Mapping):
        raise SettingsError(f"{where} is {row!r}, which is no table; write it as [[node.engine]]")
    for key in row:
        if key not in _NAMES:
            near = difflib.get_close_matches(str(key), _NAMES, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_NAMES)}"
            raise SettingsError(f"{where} sets {key!r}, which is nothing of an engine; {hint}")
    gpus = row.get("gpus", ())
    texts = {key: row.get(key, "") for key in _NAMES if key != "gpus"}
    if type(texts["steps"]) is int:
        texts["steps"] = str(texts["steps"])
    for key, text in texts.items():
        if not isinstance(text, str):
            raise SettingsError(f"{where} sets {key} to {text!r}, which is not a text")
    if not isinstance(gpus, list | tuple) or any(isinstance(g, bool) or not isinstance(g, int | str) for g in gpus):
        raise SettingsError(f"{where} sets gpus to {gpus!r}; give indices or UUIDs, e.g. [0, 1]")
    return _checked(EngineSettings(gpus=tuple(str(gpu).strip() for gpu in gpus), **texts), where)


def _checked(engine: EngineSettings, where: str) -> EngineSettings:
    kind = engine.kind.lower().replace("_", "-")
    if kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KINDS)}"
        raise SettingsError(f"{where} is of kind {engine.kind!r}, which is not known; {hint}")
    if engine.group and (kind != "training" or not engine.name):
        raise SettingsError(
            f"{where} sets group to {engine.group!r}; only a training job has one, and it needs a name of its own"
        )
    if engine.steps and not engine.name:
        raise SettingsError(f"{where} sets steps and no name; give the job a name, unique in the cluster")
    if engine.steps and (kind != "training" or not engine.steps.isdecimal() or not 1 <= int(engine.steps) <= 10**12):
        raise SettingsError(
            f"{where} sets steps to {engine.steps!r}; it is the length of a training job's run, a whole number from 1"
        )
    try:
        parts = urlsplit(engine.url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        usable = usable or (kind == "training" and parts.scheme == "file" and parts.path.startswith("/"))
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{where} has the address {engine.url!r}; give one like http://127.0.0.1:8000/metrics")
    for gpu in engine.gpus:
        if not (gpu.isdigit() or gpu.startswith(("GPU-", "MIG-"))):
            raise SettingsError(f"{where} names the GPU {gpu!r}; give an index like 0 or a UUID like GPU-5c8f...")
    return engine if kind == engine.kind else EngineSettings(**{**_values(engine), "kind": kind})  # type: ignore[arg-type]


def _values(engine: EngineSettings) -> dict[str, object]:
    return {name: getattr(engine, name) for name in _NAMES}
