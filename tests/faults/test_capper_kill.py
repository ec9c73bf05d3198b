"""kill -9 of a real capper at each of its failpoints: a restart, or `eo restore` alone, leaves nothing set."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator

import pytest

from agents.node.capper_client import SocketCapper
from agents.node.errors import CapperUnavailable
from streams.contract import failpoints
from tests.fakes.capper_process import CapperProcess, capper_on_nvml
from tests.fakes.capper_rig import columns

POINTS = sorted(name for name in failpoints.NAMES if name.startswith("capper."))
SETS_BEFORE_DEATH = {
    "capper.after_hwm_fsync": False,
    "capper.after_save_before_set": False,
    "capper.after_set_before_readback": True,
    "capper.before_ack": True,
    "capper.before_restore": True,
}
FOUND_W = {0: 700.0, 1: 650.0}


@pytest.fixture
def capper() -> Iterator[CapperProcess]:
    """Two GPUs, one of which somebody had set to 650 W before us."""
    with capper_on_nvml() as made:
        made.nvml.foreign_writer(1, FOUND_W[1])
        yield made


def found(capper: CapperProcess) -> bool:
    """Every device says what it said before us, to us and to an independent client."""
    limits = {uuid: FOUND_W[index] for index, uuid in enumerate(capper.nvml.uuids)}
    others = {uuid: values["limit_w"] for uuid, values in capper.seen_by_others().items()}
    return capper.nvml.limits_w() == others == limits and set(capper.nvml.locks_mhz().values()) == {0}


def die_at(capper: CapperProcess, point: str) -> None:
    """A capper that holds limits, or is about to, and dies at the point."""
    capper.start(EO_FAILPOINT=f"{point}:kill")
    client = SocketCapper(capper.socket)
    with pytest.raises(CapperUnavailable):
        client.grant(capper.raw(1, columns(capper.nvml.uuids, watts=[400.0, 300.0])), received_ns=time.time_ns())
        client.set_clocks(dict.fromkeys(capper.nvml.uuids, 1200))
        assert capper.process is not None
        capper.process.terminate()  # reaches the restore
        for _ in range(10_000):
            client.status()  # until it is gone
    client.close()
    code, _ = capper.end()
    assert code == -signal.SIGKILL, "it died at the failpoint and nowhere else"


def test_every_failpoint_of_the_capper_is_known_here() -> None:
    assert set(SETS_BEFORE_DEATH) == set(POINTS)


@pytest.mark.parametrize("point", POINTS)
def test_a_restart_puts_everything_back(capper: CapperProcess, point: str) -> None:
    die_at(capper, point)
    assert (capper.nvml.limits_w()[capper.nvml.uuids[0]] == 400.0) == SETS_BEFORE_DEATH[point]
    raw = capper.raw(1)
    capper.start()
    assert found(capper)
    client = SocketCapper(capper.socket)
    replay = client.grant(raw, received_ns=time.time_ns())
    assert replay.gpu.reason[0] == "stale: epoch 1, seq 1 is not above the mark 1, 1"
    assert found(capper)
    assert client.grant(capper.raw(2), received_ns=time.time_ns()).gpu.status == ("applied", "applied")
    client.close()
    code, _ = capper.terminate()
    assert code == 0 and found(capper)


@pytest.mark.parametrize("point", ["capper.after_set_before_readback", "capper.before_ack", "capper.before_restore"])
def test_eo_restore_alone_puts_everything_back(capper: CapperProcess, point: str) -> None:
    die_at(capper, point)
    done = capper.eo("restore", "--all", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["state"] for row in rows} == {"restored"}
    assert found(capper)
    again = capper.eo("restore", "--all", "--yes")
    assert (again.returncode, again.stdout) == (0, "nothing to do: no limit and no lock of ours is in force\n")


def test_five_processes_killed_in_a_row_leak_nothing(capper: CapperProcess) -> None:
    """One process after another is killed while it obeys commands; what is left is put back by the next."""
    seq = 0
    for _ in range(5):
        capper.start()
        assert found(capper)
        client = SocketCapper(capper.socket)
        for _ in range(3):
            seq += 1
            client.grant(capper.raw(seq), received_ns=time.time_ns())
        capper.kill()
        client.close()
        assert not found(capper)
    capper.start()
    assert found(capper)


def test_a_capper_paused_beyond_its_leases_restores_when_it_runs_again(capper: CapperProcess) -> None:
    capper.start()
    client = SocketCapper(capper.socket)
    client.grant(capper.raw(1, ttl_ms=1000), received_ns=time.time_ns())
    assert not found(capper)
    assert capper.process is not None
    capper.process.send_signal(signal.SIGSTOP)
    over = time.monotonic() + 1.2
    while time.monotonic() < over:
        time.sleep(0.05)
    capper.process.send_signal(signal.SIGCONT)
    events = []
    deadline = time.monotonic() + 10
    while not events and time.monotonic() < deadline:
        events = client.events()
    client.close()
    assert [event.event for event in events] == ["expiry"]
    assert found(capper)
