"""`eo capper` and `eo restore` as processes on the C stand-in for NVML, seen by an independent client."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from typing import Any

import pytest

from agents.node.capper_client import SocketCapper
from streams.contract.records import BrakeColumns, PowerApplied
from tests.fakes.capper_process import CapperProcess
from tests.fakes.capper_rig import columns

NOTHING = "nothing to do: no limit and no lock of ours is in force\n"


def grant(capper: CapperProcess, seq: int, **gpu: Any) -> PowerApplied:
    client = SocketCapper(capper.socket)
    try:
        wanted = columns(capper.nvml.uuids, **gpu) if gpu else None
        return client.grant(capper.raw(seq, wanted), received_ns=time.time_ns())
    finally:
        client.close()


def test_a_signed_command_reaches_the_device_and_sigterm_takes_it_back(capper: CapperProcess) -> None:
    capper.nvml.load_gpu(0, demand_w=650)
    capper.start()
    ack = grant(capper, 1, watts=450.0)
    assert ack.gpu.status == ("applied", "applied") and ack.actuator == "nvml_power+nvml_clock"
    assert (ack.quality, ack.gpu.previous_limit_w) == ("measured", (700.0, 700.0))
    client = SocketCapper(capper.socket)
    assert client.set_clocks({capper.nvml.uuids[0]: 1005}) == {capper.nvml.uuids[0]: 1005}
    client.close()
    seen = capper.seen_by_others()[capper.nvml.uuids[0]]
    assert (seen["limit_w"], seen["sm_mhz"]) == (450.0, 1005.0)
    assert seen["power_w"] == pytest.approx(650 * 1005 / 1980, rel=0.01)
    code, said = capper.terminate()
    assert code == 0, said
    assert "capper of n1 is ready and obeys commands up to mode on" in said
    assert capper.limits_seen() == {700.0}
    assert set(capper.nvml.locks_mhz().values()) == {0}


def test_without_opt_in_no_device_is_asked_for_anything(capper: CapperProcess) -> None:
    capper.start(EO_CAPPER_OPT_IN="0")
    assert grant(capper, 1).gpu.status == ("refused", "refused")
    assert capper.nvml.set_calls() == 0
    _, said = capper.terminate()
    assert "refuses every command: opt_in is false" in said


def test_another_administrator_is_respected(capper: CapperProcess) -> None:
    capper.start()
    grant(capper, 1, watts=450.0)
    first, second = capper.nvml.uuids
    capper.seen_by_others(first, "600")
    client = SocketCapper(capper.socket)
    events: list[PowerApplied] = []
    deadline = time.monotonic() + 10
    while not events and time.monotonic() < deadline:
        events = client.events()
    client.close()
    assert [(event.event, event.gpu.uuid) for event in events] == [("foreign_change", (first,))]
    calls = capper.nvml.set_calls()
    assert grant(capper, 2, watts=450.0).gpu.status == ("refused", "applied")
    assert capper.nvml.set_calls() == calls
    capper.terminate()
    assert capper.nvml.limits_w() == {first: 600.0, second: 700.0}


def test_restore_asks_a_live_capper_and_has_nothing_to_do_twice(capper: CapperProcess) -> None:
    capper.start()
    grant(capper, 1, watts=450.0)
    planned = capper.eo("restore", "--dry-run", "--json")
    assert [
        (row["before"], row["after"], row["state"]) for row in json.loads(planned.stdout) if "power" in row["knob"]
    ] == [
        (450.0, 700.0, "planned"),
        (450.0, 700.0, "planned"),
    ]
    unasked = capper.eo("restore", "--node", "n1")
    assert unasked.returncode == 3
    assert "Put back 4 values on 1 node(s)? There is no terminal to ask on: pass --yes" in unasked.stderr
    assert set(capper.nvml.limits_w().values()) == {450.0}
    done = capper.eo("restore", "--node", "n1", "--yes")
    assert done.returncode == 0 and "450 -> 700" in done.stdout and "restored" in done.stdout
    assert set(capper.nvml.limits_w().values()) == {700.0}
    again = capper.eo("restore", "--node", "n1", "--yes")
    assert (again.returncode, again.stdout) == (0, NOTHING)


def test_restore_that_fails_says_which_gpu_and_may_be_tried_again(capper: CapperProcess) -> None:
    capper.start()
    grant(capper, 1, watts=450.0, low=None, high=None)
    capper.kill()
    capper.nvml.forbidden()
    failed = capper.eo("restore", "--yes")
    assert failed.returncode == 1
    assert "450 -> unknown" in failed.stdout and "setting needs CAP_SYS_ADMIN" in failed.stdout
    capper.nvml.heal()
    assert capper.eo("restore", "--yes").returncode == 0
    assert set(capper.nvml.limits_w().values()) == {700.0}


def test_restore_of_a_node_that_never_was_is_a_wrong_use(capper: CapperProcess) -> None:
    done = capper.eo("restore", "--node", "n9", "--yes")
    assert done.returncode == 2
    assert "no capper ever ran here for node 'n9'" in done.stderr


def test_restore_on_an_untouched_machine_has_nothing_to_do(capper: CapperProcess) -> None:
    done = capper.eo("restore", "--yes")
    assert (done.returncode, done.stdout) == (0, NOTHING)


def test_several_nodes_need_a_choice(capper: CapperProcess) -> None:
    for node in ("n1", "n2"):
        (capper.folder / "capper" / node).mkdir(parents=True)
        (capper.folder / "capper" / node / "lock").touch()
    done = capper.eo("restore", "--yes")
    assert done.returncode == 2
    assert "2 nodes have a capper's folder here; name one with --node or pass --all" in done.stderr
    assert capper.eo("restore", "--all", "--yes").stdout == NOTHING


def test_a_socket_that_nobody_serves_does_not_stop_a_restore(capper: CapperProcess) -> None:
    import socket

    capper.start()
    grant(capper, 1, watts=450.0)
    capper.kill()
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(str(capper.socket))
    stale.close()
    assert capper.eo("restore", "--yes").returncode == 0
    assert set(capper.nvml.limits_w().values()) == {700.0}


@pytest.mark.parametrize(
    ("more", "code", "text"),
    [
        ({"EO_DATA_DIRR": "x"}, 2, "EO_DATA_DIRR is no setting, did you mean EO_DATA_DIR?"),
        (
            {"EO_CAPPER_OPTIN": "1"},
            2,
            "EO_CAPPER_OPTIN is no setting, did you mean EO_CAPPER_OPT_IN?",
        ),
        (
            {"FAKE_NVML_STATE": "/nowhere"},
            1,
            "the GPUs of node n1 cannot be listed: NVML does not open: Driver Not Loaded",
        ),
    ],
)
def test_a_start_that_cannot_be_is_one_sentence(
    capper: CapperProcess, more: dict[str, str], code: int, text: str
) -> None:
    done = capper.eo("capper", "--node", "n1", "--cluster", "c1", **more)
    assert done.returncode == code
    assert done.stderr.startswith("eo capper: ") and text in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_keys_it_does_not_start(capper: CapperProcess) -> None:
    (capper.folder / "keys" / "keyring").unlink()
    done = capper.eo("capper", "--node", "n1")
    assert done.returncode == 1
    assert "keyring cannot be read (No such file or directory), so no command can be verified" in done.stderr


def test_two_cappers_never_share_a_node(capper: CapperProcess) -> None:
    capper.start()
    assert capper.process is not None
    done = capper.eo("capper", "--node", "n1", "--cluster", "c1")
    assert done.returncode == 1
    assert f"another capper (pid {capper.process.pid}) holds" in done.stderr
    assert capper.socket.exists(), "the first one's socket is left alone"
    assert grant(capper, 1).gpu.status == ("applied", "applied")


def test_a_corrupt_save_file_is_one_sentence_for_both_commands(capper: CapperProcess) -> None:
    capper.start()
    grant(capper, 1, watts=450.0)
    capper.kill()
    (capper.folder / "capper" / "n1" / "save.json").write_text("{}")
    calls = capper.nvml.set_calls()
    for arguments in (("capper", "--node", "n1", "--cluster", "c1"), ("restore", "--yes")):
        done = capper.eo(*arguments)
        assert done.returncode == 1
        assert "save.json is not a save file" in done.stderr and "nothing was set" in done.stderr
    assert capper.nvml.set_calls() == calls


def test_a_rehearsal_sets_nothing(capper: CapperProcess) -> None:
    capper.start(EO_CAPPER_ACTUATOR="dry-run")
    ack = grant(capper, 1, watts=450.0)
    assert (ack.gpu.effective_limit_w, ack.quality) == ((450.0, 450.0), "simulated")
    assert capper.nvml.set_calls() == 0
    capper.kill()
    assert capper.eo("restore", "--yes").returncode == 0
    assert capper.nvml.set_calls() == 0


def test_the_simulated_devices_of_a_dead_fleet_are_restored(capper: CapperProcess) -> None:
    from agents.cli.capper import actuators
    from agents.fleet import registers
    from streams.contract.layout import Layout

    layout = Layout(capper.folder)
    devices = registers.create(layout.fleet, cluster="c1", nodes=2, gpus_per_node=2)
    node = devices.nodes[0]
    power, _ = actuators("twin", layout, node)
    uuid = power.uuids()[0]
    assert len(power.uuids()) == 2
    folder = layout.capper / node
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    from agents.capper import savefile

    found = savefile.SavedKnob(previous=650.0, owner="set by others", saved_at_ns=1)
    saved = savefile.Saved(
        cluster="c1",
        node=node,
        capper_id="x",
        power_actuator="twin_power",
        clock_actuator="twin_clock",
        power={uuid: found},
    )
    savefile.write(folder, saved)
    power.set(uuid, 300.0)
    done = capper.eo("restore", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    assert "300 -> 650" in done.stdout
    assert power.read(uuid) == 650.0


@pytest.mark.parametrize("verb", ["capper", "restore"])
def test_help_shows_an_example(capper: CapperProcess, verb: str) -> None:
    done = capper.eo(verb, "--help")
    assert done.returncode == 0 and "example: " in done.stdout


SYSTEM_PYTHON = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")


@pytest.mark.skipif(os.getuid() != 0 or not SYSTEM_PYTHON, reason="needs root and a Python that every user may run")
def test_the_agents_user_may_talk_and_no_other(capper: CapperProcess) -> None:
    agent_uid, other_uid = 64_990, 64_991
    capper.folder.chmod(0o711)
    capper.start(EO_CAPPER_ALLOW_UIDS=str(agent_uid))
    ask = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        's.sendall(b\'{"op":"status"}\\n\'); print(s.recv(20).decode())'
    )

    def as_user(uid: int) -> subprocess.CompletedProcess[str]:
        command = [SYSTEM_PYTHON or "", "-c", ask, str(capper.socket)]
        return subprocess.run(command, user=uid, cwd="/", capture_output=True, text=True, timeout=60)

    assert as_user(agent_uid).stdout.startswith('{"ok":true')
    refused = as_user(other_uid)
    assert refused.returncode != 0 and "PermissionError" in refused.stderr


def test_a_full_row_brakes_through_the_socket_and_a_silent_agent_brakes_too(capper: CapperProcess) -> None:
    """The limits as an independent client sees them; the wait is the bound on the meter's age."""
    uuids = capper.nvml.uuids
    step = (250.0,) * len(uuids)
    table = BrakeColumns(row="r1", budget_w=10_000.0, from_ratio=(0.97,), max_power_w=(step,))
    capper.start(EO_CAPPER_ROW_METER="1", EO_CAPPER_ROW_METER_MAX_AGE_S="1")
    client, limits = SocketCapper(capper.socket), capper.limits_seen
    try:
        assert client.row_load(5_000.0, 0.0)
        signed = capper.raw(1, columns(uuids, watts=450.0), brake=table)
        assert client.grant(signed, received_ns=time.time_ns()).gpu.status[0] == "applied"
        assert limits() == {450.0}
        assert client.row_load(9_800.0, 0.0) and limits() == {250.0}
        (event,) = client.events()
        assert event.event == "command" and event.gpu.reason[0].startswith(
            "brake: 250 W instead of 450 W, row r1 draws"
        )
        status: Any = client.status()
        assert status["row"]["load_ratio"] == 0.98 and len(status["row"]["braked"]) == 2
    finally:
        client.close()
    capper.terminate()
    assert limits() == {700.0}
    capper.start(EO_CAPPER_ROW_METER="1", EO_CAPPER_ROW_METER_MAX_AGE_S="1")
    client = SocketCapper(capper.socket)
    try:
        assert client.row_load(5_000.0, 0.0)
        client.grant(capper.raw(2, columns(uuids, watts=450.0), brake=table), received_ns=time.time_ns())
        assert limits() == {450.0}
        deadline = time.monotonic() + 20
        while limits() != {250.0}:
            assert time.monotonic() < deadline, "nobody spoke and nothing braked"
            time.sleep(0.05)
    finally:
        client.close()
