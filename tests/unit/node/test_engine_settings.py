"""Engines in the agent's settings: TOML tables, the environment's line, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.node.engine_settings import EngineSettings
from agents.node.errors import SettingsError
from agents.node.settings import NodeSettings


def test_tables_of_toml(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(
        '[[node.engine]]\nkind = "vllm"\nurl = "http://127.0.0.1:8000/metrics"\ngpus = [0, 1]\nname = "chat"\n'
        '[[node.engine]]\nkind = "tensorrt_llm"\nurl = "https://h/m"\ngpus = ["GPU-1"]\nstack = "s"\nworkload = "w"\n'
    )
    settings = NodeSettings.from_env({"EO_NODE_CONFIG": str(path)})
    assert settings.engine == (
        EngineSettings(kind="vllm", url="http://127.0.0.1:8000/metrics", gpus=("0", "1"), name="chat"),
        EngineSettings(kind="tensorrt-llm", url="https://h/m", gpus=("GPU-1",), stack="s", workload="w"),
    )
    assert settings.source_names == ("nvml", "procfs", "engines")
    assert settings.source_options("engines")["engines"] == settings.engine


def test_a_line_of_the_environment() -> None:
    line = "vllm http://h:1/metrics gpus=0,1 name=chat; tgi http://h:2/metrics"
    settings = NodeSettings.from_env({"EO_NODE_ENGINE": line})
    assert [str(engine) for engine in settings.engine] == [
        "vllm http://h:1/metrics gpus=0,1 name=chat",
        "tgi http://h:2/metrics",
    ]


def test_without_engines_nothing_changes() -> None:
    assert NodeSettings().source_names == ("nvml", "procfs")


def test_an_engine_is_no_source_of_the_agent_by_itself() -> None:
    with pytest.raises(SettingsError, match=r"sources names the engine 'vllm'; give its address in a table"):
        NodeSettings(sources=("procfs", "vllm"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("vllm", "EO_NODE_ENGINE is 'vllm'; give KIND URL and then key=value"),
        ("vllm http://h/m gpus", "give KIND URL and then key=value"),
        ("vlm http://h/m", "engine 1 is of kind 'vlm', which is not known; did you mean 'vllm'?"),
        ("vllm h:8000", "has the address 'h:8000'; give one like http://127.0.0.1:8000/metrics"),
        ("vllm http://h:99999/m", "has the address 'http://h:99999/m'"),
        ("vllm http://h/m gpu=0", "sets 'gpu', which is nothing of an engine; did you mean 'gpus'?"),
        ("vllm http://h/m gpus=a", "names the GPU 'a'; give an index like 0 or a UUID like GPU-5c8f..."),
        ("vllm http://h/m name=a; tgi http://h/n name=a", "names two engines 'a'; names must differ"),
        (";".join(f"vllm http://h:{n}/m" for n in range(1, 67)), "names 66 engines and 64 is the most of one agent"),
    ],
)
def test_what_does_not_fit_is_one_sentence(line: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        NodeSettings.from_env({"EO_NODE_ENGINE": line})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("engine = 5", "write it as tables [[node.engine]]"),
        ("engine = [5]", "which is no table; write it as [[node.engine]]"),
        ('[[node.engine]]\nkind="vllm"\nurl=5', "sets url to 5, which is not a text"),
        ('[[node.engine]]\nkind="vllm"\nurl="http://h/m"\ngpus=0', "sets gpus to 0; give indices or UUIDs"),
        ('[[node.engine]]\nkind="vllm"\nurl="http://h/m"\ngpus=[true]', "sets gpus to [True]"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, toml: str, said: str) -> None:
    path = tmp_path / "node.toml"
    path.write_text(toml if toml.startswith("[[") else f"[node]\n{toml}\n")
    with pytest.raises(SettingsError) as caught:
        NodeSettings.from_env({"EO_NODE_CONFIG": str(path)})
    assert said in str(caught.value)
