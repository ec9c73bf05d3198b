"""Settings from TOML and environment; each refusal is one sentence with the value and the next step."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agents.node.errors import SettingsError
from agents.node.settings import NodeSettings
from agents.node.sources import registry


def test_defaults_watch_this_host() -> None:
    settings = NodeSettings.from_env({})
    assert settings == NodeSettings()
    assert settings.node == socket.gethostname()
    assert (settings.sources, settings.metrics_host) == (("nvml", "procfs"), "127.0.0.1")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('[node]\nname = "a"\nsample_interval_s = 2\nsources = ["procfs"]\nspool_max_mb = 64\n')
    env = {"EO_NODE_CONFIG": str(path), "EO_NODE_NAME": "b", "EO_NODE_SOURCES": "nvml, procfs", "EO_CLUSTER": "west"}
    settings = NodeSettings.from_env(env)
    assert (settings.node, settings.sample_interval_s, settings.spool_max_mb) == ("b", 2.0, 64)
    assert (settings.sources, settings.cluster) == (("nvml", "procfs"), "west")
    assert NodeSettings.from_env({**env, "EO_NODE_CLUSTER": "east"}).cluster == "east"


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"EO_NODE_SPOOL_MAXMB": "5"}, r"EO_NODE_SPOOL_MAXMB, which is no setting .* did you mean 'spool_max_mb'"),
        ({"EO_NODE_ZZZ": "5"}, "known are config, cluster, name"),
        ({"EO_NODE_SPOOL_MAX_MB": "much"}, "'much', which is not a whole number"),
        ({"EO_NODE_SPOOL_MAX_MB": "1"}, "spool_max_mb is 1; give 16 to"),
        ({"EO_NODE_SAMPLE_INTERVAL_S": "0"}, r"sample_interval_s is 0; give 0\.1 to 60"),
        ({"EO_NODE_SAMPLE_INTERVAL_S": "nan"}, "sample_interval_s is nan"),
        ({"EO_NODE_SOURCES": ","}, "sources is empty"),
        ({"EO_NODE_SOURCES": "replay"}, "EO_NODE_REPLAY_PATH"),
        ({"EO_NODE_LOG_LEVEL": "loud"}, "log_level is 'loud'; one of DEBUG"),
        ({"EO_NODE_CONFIG": "/nowhere/node.toml"}, "cannot be read .*correct EO_NODE_CONFIG"),
    ],
)
def test_refusals(env: dict[str, str], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        NodeSettings.from_env(env)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nnmae = 'a'\n", "node.toml names 'nmae', .*did you mean 'name'"),
        ("[node]\nspool_max_mb = 'a'\n", "sets spool_max_mb to 'a', which is not a whole number"),
        ("[node]\nmetrics_port = true\n", "sets metrics_port to True"),
        ("[node\n", "is not TOML"),
    ],
)
def test_refusals_of_a_file(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=words):
        NodeSettings.from_env({"EO_NODE_CONFIG": str(path)})


def test_the_registry_makes_sources_by_name(tmp_path: Path) -> None:
    settings = NodeSettings(sources=("replay",), replay_path="x.jsonl", replay_speed=0, procfs_root=str(tmp_path))
    for name in registry.SOURCES:
        source = registry.make(name, settings.source_options(name))
        assert source.name == name
    with pytest.raises(SettingsError, match="source 'abacus' does not exist; choose among nvml, procfs, "):
        registry.make("abacus")
    with pytest.raises(SettingsError, match="source 'procfs' does not take these options"):
        registry.make("procfs", {"speed": 1})
