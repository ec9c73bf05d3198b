"""`eo capper` and `eo restore` as processes on the Redfish actuator, against a fake BMC: set, kill -9, put back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agents.capper import savefile
from agents.node.capper_client import SocketCapper
from streams.contract.records import PowerApplied
from tests.fakes.bmc.logic import PASSWORD, USER, FakeBmc
from tests.fakes.bmc.server import one_bmc
from tests.fakes.capper_process import CapperProcess
from tests.fakes.capper_rig import columns

LIMIT_S = 30.0


@pytest.fixture
def bmc() -> FakeBmc:
    return FakeBmc(latency_s=0.3)


@pytest.fixture
def capper(bmc: FakeBmc) -> Iterator[CapperProcess]:
    """A node without NVML. The folder is short because socket paths are."""
    with tempfile.TemporaryDirectory() as folder, one_bmc(bmc) as url:
        secret = Path(folder) / "password"
        secret.write_text(PASSWORD)
        settings = {
            "EO_CAPPER_ACTUATOR": "redfish",
            "EO_CAPPER_REDFISH_URL": url,
            "EO_CAPPER_REDFISH_USER": USER,
            "EO_CAPPER_REDFISH_PASSWORD_FILE": str(secret),
            "EO_CAPPER_REDFISH_LATENCY_S": "2",
        }
        uuids = tuple(f"GPU-{bmc.machine.uuid(n)}" for n in (1, 2))
        with CapperProcess(Path(folder), SimpleNamespace(environment=lambda: settings, uuids=uuids)) as made:  # type: ignore[arg-type]
            yield made


def grant(capper: CapperProcess) -> PowerApplied:
    client = SocketCapper(capper.socket)
    try:
        wanted = columns(capper.nvml.uuids, watts=500.0, low=None, high=None)
        return client.grant(capper.raw(1, wanted), received_ns=time.time_ns())
    finally:
        client.close()


def wait(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < ends, "it did not happen in time"
        time.sleep(0.02)


def limits(bmc: FakeBmc) -> list[float | None]:
    bmc._settle()
    return [bmc.machine.limits[name].value for name in ("gpu1", "gpu2")]


def test_sigterm_puts_back_before_it_ends(capper: CapperProcess, bmc: FakeBmc) -> None:
    capper.start()
    answer = grant(capper)
    assert answer.gpu.status == ("applied", "applied")
    assert (answer.actuator, answer.gpu.previous_limit_w) == ("redfish_power", (700.0, 700.0))
    wait(lambda: limits(bmc) == [500.0, 500.0])
    code, said = capper.terminate()
    assert code == 0, said
    assert limits(bmc) == [700.0, 700.0]
    assert PASSWORD not in said


def test_killed_at_once_the_save_file_and_eo_restore_put_back(capper: CapperProcess, bmc: FakeBmc) -> None:
    capper.start()
    grant(capper)
    wait(lambda: limits(bmc) == [500.0, 500.0])
    capper.kill()
    saved = savefile.load(capper.folder / "capper" / "n1")
    assert saved is not None and saved.power_actuator == "redfish_power"
    done = capper.eo("restore", "--node", "n1", "--yes")
    assert done.returncode == 0, done.stderr
    assert limits(bmc) == [700.0, 700.0]
    assert savefile.load(capper.folder / "capper" / "n1") is None


def test_restore_without_the_address_says_what_is_missing(capper: CapperProcess, bmc: FakeBmc) -> None:
    capper.start()
    grant(capper)
    wait(lambda: limits(bmc) == [500.0, 500.0])
    capper.kill()
    done = capper.eo("restore", "--node", "n1", "--yes", EO_CAPPER_REDFISH_URL="", EO_CAPPER_ACTUATOR="nvml")
    assert done.returncode == 1
    assert "the values were set through a BMC; give its address by EO_CAPPER_REDFISH_URL" in done.stderr
    assert savefile.load(capper.folder / "capper" / "n1") is not None
