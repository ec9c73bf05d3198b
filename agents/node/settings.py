"""Settings of the node agent: a TOML file, then EO_NODE_* on top. Standard library only; nothing is touched here.

A name that does not exist is refused with the nearest one: a setting that is silently ignored runs a node with a value
that nobody chose.
"""

from __future__ import annotations

import difflib
import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, cast

from agents.node import engine_settings
from agents.node.engine_settings import EngineSettings
from agents.node.errors import SettingsError
from agents.node.training_rules import KNOBS, TrainingRules

ENV_PREFIX: Final = "EO_NODE_"
CONFIG_NAME: Final = "EO_NODE_CONFIG"
ENGINES: Final = "tuple[EngineSettings, ...]"


def _hostname() -> str:
    return socket.gethostname() or "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """What one node agent does. Times in seconds, sizes in megabytes (10**6 bytes); "" = not used."""

    config: str = ""  # the TOML file that the rest came from
    cluster: str = "default"  # also EO_CLUSTER, which all processes of a cluster share
    name: str = ""  # this node's name, the key of its records; "" = the host's name
    sources: tuple[str, ...] = ("nvml", "procfs")  # in order of trust: the first that knows a value gives it
    sample_interval_s: float = 1.0  # one record each; 1 s is what the stream jobs expect
    control_interval_s: float = 0.5  # local loop; an engine signal lives for 2 s
    spool_dir: str = ""  # "" = <data folder>/spool/<node>
    spool_max_mb: int = 512  # oldest records are dropped above it; 512 holds about 40 hours of 8 GPUs
    capper_socket: str = ""  # "" = <data folder>/capper/<node>/capper.sock
    metrics_host: str = "127.0.0.1"  # numbers about a cluster's load are not for everybody
    metrics_port: int = 9465  # 0 = any free port, -1 = no exporter
    procfs_root: str = "/"  # where proc/ and sys/ lie; a container mounts the host's elsewhere
    replay_path: str = ""  # recording for the source "replay"
    replay_speed: float = 1.0  # recorded seconds per second; 0 = one record per sample
    dcgm_url: str = "http://127.0.0.1:9400/metrics"  # dcgm-exporter's text, for the source "dcgm"
    dcgm_hostengine: str = "127.0.0.1:5555"  # of "dcgm-native"; "unix:PATH", or "embedded" to start one in the agent
    dcgm_profiling: int = 0  # 1 = "dcgm-native" also watches profiling fields: they cost the GPU power and need root
    nvidia_smi_path: str = "nvidia-smi"  # the program that the source "nvidia-smi" runs
    rapl_root: str = ""  # where sys/ lies for the source "rapl"; "" = EO_SYSFS_ROOT, else "/"
    redfish_url: str = ""  # this node's BMC, e.g. https://bmc-17; needed by the source "redfish"
    redfish_user: str = ""
    redfish_password_file: str = ""  # its first line is the password; never in the environment or on a command line
    redfish_ca_file: str = ""  # CA of the BMC's certificate, PEM; "" = the system's
    redfish_insecure: bool = False  # true = the BMC's certificate is not checked
    ipmi_url: str = ""  # lanplus://BMC or lan://BMC for the source "ipmi"; "" = this machine's own BMC
    ipmi_user: str = ""
    ipmi_password_file: str = ""  # its first line is the password
    engine: tuple[EngineSettings, ...] = ()  # serving engines of this node: [[node.engine]], or EO_NODE_ENGINE
    slo_ttft_ms: float = 2000.0  # over 1 % of an hour's requests above these: default clocks
    slo_tbt_ms: float = 100.0
    training_slowdown: float = 0.05  # how much longer a step of a training job may take than at default clocks
    row_meter: tuple[str, ...] = ()  # power domains of this node's record that together are its row, e.g. pdu-a,pdu-b
    row_meter_stuck_s: float = 60.0  # a feed that does not move for so long is no reading; 0 = it may
    training_knob: str = "clock"  # or "power": limits below the envelope's ceiling instead of clocks
    log_level: str = "INFO"

    def __post_init__(self) -> None:
        _check(self)

    @property
    def node(self) -> str:
        return self.name or _hostname()

    @property
    def source_names(self) -> tuple[str, ...]:
        """The sources to read: those named, and the engines where some are given."""
        return (*self.sources, "engines") if self.engine and "engines" not in self.sources else self.sources

    @property
    def training(self) -> TrainingRules:
        """How the training jobs of this node are run."""
        return TrainingRules(
            self.training_slowdown,
            self.training_knob,
            {e.name: int(e.steps) for e in self.engine if e.steps},
            {e.name: e.group for e in self.engine if e.group},
        )

    def source_options(self, source: str) -> dict[str, object]:
        """What a source's factory gets."""
        options: dict[str, dict[str, object]] = {
            "procfs": {"root": self.procfs_root},
            "replay": {"path": self.replay_path, "speed": self.replay_speed},
            "engines": {"engines": self.engine, "node": self.node, "interval_s": self.sample_interval_s / 2},
            "dcgm": {"url": self.dcgm_url, "host": self.node},
            "dcgm-native": {"hostengine": self.dcgm_hostengine, "profiling": bool(self.dcgm_profiling)},
            "rapl": {"root": self.rapl_root, "proc_root": "" if self.procfs_root == "/" else self.procfs_root},
            "redfish": self._redfish(),
            "ipmi": {"url": self.ipmi_url, "user": self.ipmi_user, "password_file": self.ipmi_password_file},
            "nvidia-smi": {"program": self.nvidia_smi_path},
        }
        return options.get(source.lower().replace("_", "-"), {})

    def _redfish(self) -> dict[str, object]:
        return {
            "url": self.redfish_url,
            "user": self.redfish_user,
            "password_file": self.redfish_password_file,
            "ca_file": self.redfish_ca_file,
            "insecure": self.redfish_insecure,
        }

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> NodeSettings:
        """Settings from the file that EO_NODE_CONFIG names, if any, and from the environment, which wins.

        Raises:
            SettingsError: a name that does not exist (with the nearest one), or a value out of its bounds.
        """
        given = {name: text for name, text in env.items() if name.startswith(ENV_PREFIX)}
        settings = cls()
        if path := given.get(CONFIG_NAME):
            settings = _merge(settings, _table(Path(path)), path)
        shared = {"cluster": env["EO_CLUSTER"]} if env.get("EO_CLUSTER") else {}
        own = {name.removeprefix(ENV_PREFIX).lower(): _parse(name, text) for name, text in given.items()}
        return _merge(settings, {**shared, **own}, "the environment")


def _check(s: NodeSettings) -> None:
    bounds: tuple[tuple[str, float, float], ...] = (
        ("sample_interval_s", 0.1, 60),
        ("control_interval_s", 0.1, 2),
        ("spool_max_mb", 16, 1_000_000),
        ("metrics_port", -1, 65535),
        ("replay_speed", 0, 10_000),
        ("dcgm_profiling", 0, 1),
        ("slo_ttft_ms", 1, 3_600_000),
        ("slo_tbt_ms", 1, 3_600_000),
        ("training_slowdown", 0, 1),
        ("row_meter_stuck_s", 0, 3600),
    )
    for name, low, high in bounds:
        value = getattr(s, name)
        if not low <= value <= high:
            raise SettingsError(f"{name} is {value:g}; give {low:g} to {high:g}")
    if not s.sources:
        raise SettingsError("sources is empty; name at least one, e.g. procfs")
    for name in s.sources:
        if name.lower().replace("_", "-") in engine_settings.KINDS:
            raise SettingsError(f"sources names the engine {name!r}; give its address in a table [[node.engine]]")
    if "replay" in s.sources and not s.replay_path:
        raise SettingsError("source replay needs a recording; give its path with EO_NODE_REPLAY_PATH")
    if len(set(s.row_meter)) != len(s.row_meter):
        raise SettingsError(f"row_meter is {','.join(s.row_meter)}; name each domain once, their power is added")
    if s.training_knob not in KNOBS:
        raise SettingsError(f"training_knob is {s.training_knob!r}; one of {', '.join(KNOBS)}")
    if s.log_level.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise SettingsError(f"log_level is {s.log_level!r}; one of DEBUG, INFO, WARNING, ERROR")


def _table(path: Path) -> dict[str, Any]:
    try:
        return dict(tomllib.loads(path.read_text()).get("node", {}))
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error.strerror}); correct {CONFIG_NAME}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error


def _kinds() -> dict[str, str]:
    return {field.name: str(field.type) for field in fields(NodeSettings)}


def _parse(name: str, text: str) -> object:
    """The environment's text as the field's type; an unknown name stays text, and `_merge` refuses it."""
    kind = _kinds().get(name.removeprefix(ENV_PREFIX).lower(), "str")
    if kind == ENGINES:
        return engine_settings.from_text(text, name)
    try:
        if kind.startswith("tuple"):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        if kind == "bool":
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except (ValueError, KeyError):
        raise SettingsError(f"{name} is {text!r}, which is not {_said(kind)}") from None


def _merge(settings: NodeSettings, found: Mapping[str, object], where: str) -> NodeSettings:
    kinds = _kinds()
    for name in found:
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(kinds)}"
            raise SettingsError(f"{where} names {_as_written(name, where)}, which is no setting of the agent; {hint}")
    values = {name: _typed(name, value, kinds[name], where) for name, value in found.items()}
    return replace(settings, **cast(dict[str, Any], values))


def _as_written(name: str, where: str) -> str:
    return ENV_PREFIX + name.upper() if where == "the environment" else repr(name)


def _typed(name: str, value: object, kind: str, where: str) -> object:
    """TOML's value as the field's type: whole numbers count as floats, a list as a tuple; all else must fit."""
    if kind == ENGINES:
        return engine_settings.from_tables(value, where)
    if kind.startswith("tuple") and isinstance(value, list):
        value = tuple(value)
    if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    wanted = {"t": tuple, "i": int, "f": float, "s": str, "b": bool}[kind[0]]
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise SettingsError(f"{where} sets {name} to {value!r}, which is not {_said(kind)}")
    return value


def _said(kind: str) -> str:
    return {"t": "a list of names", "i": "a whole number", "f": "a number", "s": "a text", "b": "true or false"}[
        kind[0]
    ]
