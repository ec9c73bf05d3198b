"""What an agent with eight GPUs and a broker keeps in memory, and that it gives back what its start took."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.node import memory
from tests.fakes.nvml import FakeNvml

BOUND_MB = 52.0
DEADLINE_S = 60.0


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[FakeNvml]:
    made = FakeNvml.or_skip(tmp_path, gpus=8)
    yield made
    made.close()


@pytest.fixture
def agent(topics: str, devices: FakeNvml, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    own = {"KAFKA_BOOTSTRAP": topics, "EO_DATA_DIR": str(tmp_path / "eo"), "EO_NODE_NAME": "n1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "agents", "agent"],
        env={**os.environ, **devices.environment(), **own, "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield process
    process.terminate()
    process.wait(20)


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)
    return found


def metrics(folder: Path) -> str:
    """The agent's own text; empty until it serves one."""
    note = folder / "eo/run/agent-n1.json"
    if not note.is_file() or not (address := json.loads(note.read_text())["metrics"]):
        return ""
    with urllib.request.urlopen(address, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def value(text: str, name: str) -> float:
    found = re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", text, re.M)
    return float(found[1]) if found else 0.0


@pytest.mark.integration
def test_an_agent_with_eight_gpus_and_a_broker_stays_small(agent: subprocess.Popen[bytes], tmp_path: Path) -> None:
    until(lambda: value(metrics(tmp_path), "eo_published_total") >= 6)  # settled after three
    assert agent.poll() is None
    text = metrics(tmp_path)
    assert len(re.findall(r"^eo_gpu_power_watts\{", text, re.M)) == 8
    assert value(text, "eo_process_resident_memory_bytes") / 1e6 <= BOUND_MB


class OtherLibc:
    """A C library without glibc's two calls."""


def test_another_c_library_is_left_alone() -> None:
    assert not memory.few_arenas(OtherLibc())
    assert not memory.give_back(OtherLibc())


class Recorder:
    """glibc's two calls, recorded."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return 1

    def malloc_trim(self, *arguments: int) -> int:
        self.calls.append(arguments)
        return 0


def test_glibc_is_asked_for_few_arenas_and_for_its_free_pages() -> None:
    libc = Recorder()
    assert memory.few_arenas(libc)
    assert memory.give_back(libc)
    assert libc.calls == [(-8, 2), (0,)]
