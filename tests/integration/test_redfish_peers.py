"""The fake BMC before other judges: DMTF's service validator with the standard's schemas, and OpenStack's client."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.bmc.logic import PASSWORD, USER, FakeBmc
from tests.fakes.bmc.server import one_bmc

CSDL = Path(__file__).parents[1] / "data" / "redfish_csdl"


@pytest.fixture
def bmc() -> FakeBmc:
    return FakeBmc(session_limit=16)


@pytest.fixture
def url(bmc: FakeBmc) -> Iterator[str]:
    with one_bmc(bmc) as made:
        yield made


def test_the_standards_validator_finds_no_fault(url: str, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("rf_service_validator")
    options = ["--schema_directory", str(CSDL), "--skipschema", "--logdir", str(tmp_path)]
    done = subprocess.run(
        [str(program), "-r", url, "-u", USER, "-p", PASSWORD, *options],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    total = re.search(r"PASS.*\n.*\n\|\s*(\d+)\s*\|\s*(\d+)\s*\|\s*(\d+)\s*\|", done.stdout)
    assert total is not None, done.stdout[-2000:] + done.stderr[-2000:]
    passed, _, failed = map(int, total.groups())
    assert failed == 0, [line for line in done.stdout.splitlines() if "FAIL" in line]
    assert passed > 300


def test_the_validator_would_notice(tmp_path: Path) -> None:
    """The judge is awake: a document that breaks its schema fails."""
    bmc = FakeBmc(session_limit=16)
    bmc.overrides["/redfish/v1/Chassis/1"] = {"ChassisType": "Spaceship"}
    program = Path(sys.executable).with_name("rf_service_validator")
    with one_bmc(bmc) as url:
        options = ["--schema_directory", str(CSDL), "--skipschema", "--logdir", str(tmp_path)]
        payload = ["--payload", "Single", "/redfish/v1/Chassis/1"]
        done = subprocess.run(
            [str(program), "-r", url, "-u", USER, "-p", PASSWORD, *options, *payload],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert "Spaceship" in done.stdout + "".join(p.read_text(errors="replace") for p in tmp_path.rglob("*.log"))
    assert done.returncode != 0


def test_openstacks_client_reads_it(url: str, bmc: FakeBmc) -> None:
    sushy = pytest.importorskip("sushy")
    client = sushy.Sushy(url, username=USER, password=PASSWORD, verify=False)
    system = client.get_system("/redfish/v1/Systems/1")
    assert (system.power_state, system.uuid) == (sushy.PowerState.ON, bmc.machine.uuid(0))
    (chassis,) = client.get_chassis_collection().get_members()
    assert chassis.chassis_type == sushy.ChassisType.RACK_MOUNT
    assert chassis.power.json["PowerControl"][0]["PowerConsumedWatts"] == bmc.machine.chassis_w
    assert bmc.sessions_opened >= 1
