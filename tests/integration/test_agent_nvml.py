"""NVML through the C stand-in: the real bindings, the real loader, simulated devices, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import NodeTelemetry
from tests.fakes.nvml import FakeNvml

pytestmark = pytest.mark.integration


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[FakeNvml]:
    made = FakeNvml.or_skip(tmp_path, gpus=3)
    yield made
    made.close()


def eo(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP"}
    return subprocess.run(
        [sys.executable, "-m", "agents", *arguments], env={**clean, **env}, capture_output=True, text=True, timeout=60
    )


def read(devices: FakeNvml) -> dict[str, Any]:
    done = eo("read", "nvml", "--json", env=devices.environment())
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_reads_what_the_devices_hold(devices: FakeNvml) -> None:
    devices.load_gpu(1, demand_w=500.0, util_percent=90)
    found = read(devices)
    gpu = found["gpu"]
    assert (found["quality"], gpu["uuid"], gpu["state"]) == ("measured", list(devices.uuids), ["ok"] * 3)
    assert (gpu["limit_w"], gpu["limit_min_w"], gpu["limit_max_w"]) == ([700.0] * 3, [200.0] * 3, [700.0] * 3)
    assert gpu["util_ratio"][1] == 0.9
    assert gpu["mem_used_mb"] == [1000.0] * 3
    assert gpu["sm_max_mhz"] == [1980] * 3
    assert {"gpu.power", "gpu.energy", "gpu.limit"} <= set(found["capability"])
    assert devices.set_calls() == 0


def test_a_lost_gpu_does_not_stop_the_others(devices: FakeNvml) -> None:
    devices.lost(1)
    gpu = read(devices)["gpu"]
    known = dict(zip(gpu["uuid"], gpu["power_w"], strict=True))
    assert known[devices.uuids[0]] is not None
    assert known.get(devices.uuids[1]) is None


def test_a_driver_that_is_gone_is_one_sentence(devices: FakeNvml) -> None:
    devices.driver_gone()
    done = eo("read", "nvml", env=devices.environment())
    assert done.returncode == 1
    assert "the NVIDIA driver is not loaded; load it, or go on without GPUs" in done.stderr
    assert "Traceback" not in done.stderr


ONCE = """
from pathlib import Path
from agents.node.run import AgentProcess
from agents.node.settings import NodeSettings
from streams.contract.layout import Layout
import sys
process = AgentProcess(NodeSettings(name="n1"), Layout(Path(sys.argv[1])), bootstrap=lambda: None)
record, delivered = process.once()
print(record.boot_id, delivered, ",".join(record.source))
"""


def test_an_agent_keeps_its_sample_when_there_is_no_broker(devices: FakeNvml, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ONCE, str(tmp_path / "data")],
        env={**os.environ, **devices.environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    boot_id, delivered, sources = done.stdout.split()
    assert (delivered, sources) == ("False", "nvml,procfs")
    spool = Spool(tmp_path / "data/spool/n1/telemetry")
    (kept,) = spool.read(0, 10)
    spool.close()
    record = codec.decode(NodeTelemetry, kept.value)
    assert record.gpu is not None
    assert record.gpu.uuid == devices.uuids
    assert record.boot_id == boot_id
