"""Agent and capper as processes, one settings file, a recorded meter: the row fills up and the devices' limits fall."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.node.capper_client import SocketCapper
from streams.contract.records import BrakeColumns
from tests.fakes.capper_process import CapperProcess
from tests.fakes.capper_rig import columns

pytestmark = pytest.mark.integration
WAIT_S = 30.0
SETTINGS = """
[node]
name = "n1"
cluster = "c1"
sources = ["replay"]
replay_path = "{recording}"
sample_interval_s = 0.2
control_interval_s = 0.2
row_meter = ["pdu-a"]
metrics_port = -1
"""


def recording(path: Path, full_from_s: float) -> None:
    """Ten minutes of a PDU: half full, then at 99 % of 10 kW."""
    lines = []
    for k in range(3000):
        watts = (5_000.0 if k * 0.2 < full_from_s else 9_900.0) + k % 7
        domains = {
            "name": ["pdu-a"],
            "kind": ["other"],
            "source": ["redfish"],
            "quality": ["measured"],
            "power_w": [watts],
        }
        record = {"cluster": "c1", "node": "n1", "boot_id": "b", "seq": k, "ts_ns": 10**18 + k * 2 * 10**8}
        lines.append(json.dumps({**record, "source": ["redfish"], "quality": "measured", "domains": domains}))
    path.write_text("\n".join(lines))


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_a_row_that_fills_up_is_braked_by_its_nodes_without_any_broker(capper: CapperProcess) -> None:
    folder, uuids = capper.folder, capper.nvml.uuids
    recording(folder / "pdu.jsonl", full_from_s=6.0)
    (folder / "node.toml").write_text(SETTINGS.format(recording=folder / "pdu.jsonl"))
    capper.start(EO_CAPPER_ROW_METER="1", EO_CAPPER_MAX_TTL_S="30")
    table = BrakeColumns(row="r1", budget_w=10_000.0, from_ratio=(0.97,), max_power_w=((250.0,) * len(uuids),))
    environment = capper.environment(EO_NODE_CONFIG=str(folder / "node.toml"))
    agent = subprocess.Popen(
        [sys.executable, "-m", "agents", "agent"], env=environment, stderr=subprocess.PIPE, text=True
    )
    client, limits = SocketCapper(capper.socket), capper.limits_seen
    try:
        until(lambda: client.status()["row"]["watts"] is not None, "the agent never told its row's power")  # type: ignore[index]
        signed = capper.raw(1, columns(uuids, watts=450.0), brake=table)
        ack = client.grant(signed, received_ns=time.time_ns())
        assert set(ack.gpu.status) == {"applied"} and limits() == {450.0}
        until(lambda: limits() == {250.0}, "the row is full and nothing braked")
        why = client.status()["row"]["why"]  # type: ignore[index]
        assert why.startswith("row r1 draws 990") and why.endswith("99% of its 10000 W")
    finally:
        client.close()
        agent.terminate()
        _, said = agent.communicate(timeout=20)
    assert "Traceback" not in said
    capper.terminate()
    assert limits() == {700.0}
