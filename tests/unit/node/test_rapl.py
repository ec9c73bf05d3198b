"""RAPL and hwmon as a source: names, nesting, wraps, gaps, permissions, the estimate; node_exporter as referee."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agents.cli.base import DONE, FAILED
from agents.cli.main import main
from agents.node.sources import cpu_estimate, sound
from agents.node.sources.base import Reading
from agents.node.sources.power_domain import read_text
from agents.node.sources.rapl import RaplSource
from agents.node.sources.rows import of_domains
from tests.fakes.sysfs import RANGE_UJ, Sysfs
from tests.peers import require_peer

DATA = Path(__file__).parents[2] / "data" / "cpu_rapl"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def tree(tmp_path: Path) -> Sysfs:
    return Sysfs(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def source(tree: Sysfs, clock: Clock, **options: Any) -> RaplSource:
    return RaplSource(tree.root, monotonic=clock, **options)


def rows(reading: Reading) -> dict[str, dict[str, Any]]:
    assert sound.problem(reading) is None
    return {row["name"]: row for row in of_domains(reading.domains)}


def test_a_recorded_tree_gives_each_counter_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Hand-checked: energy_uj / 1000; the mmio copy of package-0 is not a third package."""
    assert main(["read", "rapl", "--root", str(DATA / "sysfs_powercap"), "--json"]) == DONE
    out = json.loads(capsys.readouterr().out)
    got = [(r["name"], r["kind"], r["parent"], r["energy_mj"], r["power_w"], r["source"]) for r in out["domains"]]
    assert got == [
        ("package-0", "cpu_package", None, 240422366, None, "rapl"),
        ("package-10", "cpu_package", None, 240422366, None, "rapl"),
        ("package-0/core", "cpu_core", "package-0", 118821284, None, "rapl"),
    ]
    assert re.fullmatch(
        r"the counter did not move in 0\.\d+ s: it stands still or is switched off",
        out["missing"]["domains[package-0].power_w"],
    )


@pytest.mark.parametrize("below", ["", "sys", "sys/class/powercap"])
def test_the_root_may_be_a_host_its_sys_or_the_class(below: str) -> None:
    reading = RaplSource(DATA / "sysfs_powercap" / below).read(1)
    assert set(rows(reading)) == {"package-0", "package-10", "package-0/core"}


def test_the_root_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_SYSFS_ROOT", str(DATA / "sysfs_powercap/sys"))
    assert set(rows(RaplSource().read(1))) == {"package-0", "package-10", "package-0/core"}


def test_nesting_names_the_domain_that_holds_a_watt_already(tree: Sysfs, clock: Clock) -> None:
    for key, name in [
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "uncore"),
        ("intel-rapl:0:2", "dram"),
        ("intel-rapl:1", "psys"),
    ]:
        tree.zone(key, name, raw_uj=10)
    probe = source(tree, clock)
    probe.read(1)
    clock.now_s += 1
    for key, watts in [("0", 60), ("0:0", 40), ("0:1", 5), ("0:2", 10), ("1", 100)]:
        tree.move(f"intel-rapl:{key}", watts * 1_000_000)
    reading = probe.read(2)
    got = rows(reading)
    assert {name: (row["kind"], row["parent"], row["power_w"]) for name, row in got.items()} == {
        "package-0": ("cpu_package", "psys", 60.0),
        "psys": ("psys", None, 100.0),
        "package-0/core": ("cpu_core", "package-0", 40.0),
        "package-0/uncore": ("cpu_uncore", "package-0", 5.0),
        "package-0/dram": ("dram", "psys", 10.0),  # below the package in the tree, but not in its counter
    }
    assert sum(row["power_w"] for row in got.values() if row["parent"] is None) == 100.0
    assert reading.host is not None and reading.host.cpu_power_w == 60.0
    assert reading.missing == ()


def test_a_platform_domain_that_counts_too_little_holds_nothing(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0")
    tree.zone("intel-rapl:1", "psys", raw_uj=5)
    probe = source(tree, clock)
    probe.read(1)
    clock.now_s += 1
    tree.move("intel-rapl:0", 50_000_000)
    tree.move("intel-rapl:1", 1_000_000)
    assert rows(probe.read(2))["package-0"]["parent"] is None


def test_mmio_serves_where_the_msr_copy_may_not_be_read(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0", raw_uj=7_000)
    tree.zone("intel-rapl-mmio:0", "package-0", raw_uj=7_000)

    def read(path: Path) -> str:
        if path.parent.name == "intel-rapl:0" and path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(path)

    got = rows(source(tree, clock, read=read).read(1))
    assert [(name, row["energy_mj"]) for name, row in got.items()] == [("package-0", 7)]


def test_dies_with_one_name_stay_two_domains(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0", raw_uj=1_000)
    tree.zone("intel-rapl:1", "package-0", raw_uj=2_000)
    got = rows(source(tree, clock).read(1))
    assert [(name, row["energy_mj"]) for name, row in got.items()] == [("package-0", 1), ("package-0#intel-rapl:1", 2)]


def test_energy_is_monotone_and_power_right_over_two_wraps(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0", raw_uj=RANGE_UJ - 150_000_000)
    probe = source(tree, clock)
    probe.read(1)
    first = tree.true_uj["intel-rapl:0"]
    for n in range(300):
        clock.now_s += 10
        tree.move("intel-rapl:0", 1_000_000_000)
        row = rows(probe.read(n))["package-0"]
        assert row["power_w"] == 100.0
        assert row["energy_mj"] == tree.true_uj["intel-rapl:0"] // 1000
    assert tree.true_uj["intel-rapl:0"] - first > RANGE_UJ
    assert tree.true_uj["intel-rapl:0"] // RANGE_UJ == 2


def test_a_small_counter_that_wraps_often_is_followed(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0", range_uj=65_000_000)
    probe = source(tree, clock)
    probe.read(1)
    for n in range(20):
        clock.now_s += 0.5
        tree.move("intel-rapl:0", 25_000_000)
        assert rows(probe.read(n))["package-0"]["power_w"] == 50.0


def test_a_counter_that_goes_back_gives_no_power_and_no_energy(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0", raw_uj=100_000_000_000)
    probe = source(tree, clock)
    probe.read(1)
    clock.now_s += 1
    tree.set("intel-rapl:0", "energy_uj", "500\n")
    reading = probe.read(2)
    row = rows(reading)["package-0"]
    assert (row["power_w"], row["energy_mj"]) == (None, 100_000_000)
    assert dict(reading.missing)["domains[package-0].power_w"] == (
        "the counter went back from 100000000000 to 500 uJ without reaching its end"
    )
    clock.now_s += 1
    tree.set("intel-rapl:0", "energy_uj", "30000500\n")
    row = rows(probe.read(3))["package-0"]
    assert (row["power_w"], row["energy_mj"]) == (30.0, 100_030_000)


def test_a_long_gap_may_hide_wraps_and_is_no_power(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0")
    probe = source(tree, clock)
    probe.read(1)
    clock.now_s += 4000
    tree.move("intel-rapl:0", 5_000_000)
    reading = probe.read(2)
    assert rows(reading)["package-0"]["power_w"] is None
    assert "4000 s since the last reading: the counter may have wrapped unseen" in str(reading.missing)


def test_a_wall_clock_that_jumps_changes_nothing(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0")
    probe = source(tree, clock)
    probe.read(10**18)
    clock.now_s += 2
    tree.move("intel-rapl:0", 80_000_000)
    assert rows(probe.read(5))["package-0"]["power_w"] == 40.0


def test_a_vanished_domain_is_named_and_the_rest_goes_on(tree: Sysfs, clock: Clock) -> None:
    one, _ = tree.zone("intel-rapl:0", "package-0"), tree.zone("intel-rapl:1", "package-1")
    probe = source(tree, clock)
    probe.read(1)
    for file in one.iterdir():
        file.unlink()
    one.rmdir()
    clock.now_s += 1
    tree.move("intel-rapl:1", 20_000_000)
    reading = probe.read(2)
    assert {name: row["power_w"] for name, row in rows(reading).items()} == {"package-1": 20.0}
    path = tree.sys / "class/powercap/intel-rapl:0/energy_uj"
    assert dict(reading.missing)["domains[package-0]"] == f"{path} is gone; the other domains go on"
    tree.zone("intel-rapl:0", "package-0", raw_uj=3_000_000)
    clock.now_s += 1
    assert rows(probe.read(3))["package-0"]["power_w"] is None  # a new count begins
    clock.now_s += 1
    tree.move("intel-rapl:0", 9_000_000)
    assert rows(probe.read(4))["package-0"]["power_w"] == 9.0


def test_a_counter_for_root_only_is_named_with_its_fix(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0")
    path = tree.sys / "class/powercap/intel-rapl:0/energy_uj"

    def read(file: Path) -> str:
        if file.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(file))
        return read_text(file)

    fix = (
        f"{path} may be read by root only (since CVE-2020-8694): give the agent CAP_DAC_READ_SEARCH, "
        f"or run `chmod o+r {path}` at each start"
    )
    probe = source(tree, clock, read=read).probe()
    assert (probe.present, probe.reason) == (False, fix)
    assert source(tree, clock, read=read).read(1).missing == (("domains[package-0]", fix),)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_the_kernel_itself_refuses_somebody_else(tree: Sysfs) -> None:
    """The same with a real refusal: a child process without our rights."""
    path = tree.zone("intel-rapl:0", "package-0") / "energy_uj"
    path.chmod(0o400)
    for folder in (tree.root, *tree.root.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        os.write(write_end, str(RaplSource(tree.root).probe().reason).encode())
        os._exit(0)
    os.close(write_end)
    os.waitpid(child, 0)
    with os.fdopen(read_end) as pipe:
        assert pipe.read().startswith(f"{path} may be read by root only (since CVE-2020-8694)")


@pytest.mark.parametrize("raw", ["", "\n", "nonsense", "-5", "1e9", "\xff\xfe", "9" * 40, "12 34"])
def test_odd_counters_are_named_and_stop_nothing(tree: Sysfs, clock: Clock, raw: str) -> None:
    tree.zone("intel-rapl:0", "package-0", raw_uj=5_000)
    tree.zone("intel-rapl:1", "package-1")
    (tree.sys / "class/powercap/intel-rapl:1/energy_uj").write_bytes(raw.encode("latin1"))
    reading = source(tree, clock).read(1)
    assert list(rows(reading)) == ["package-0"]
    assert "cannot be read" in dict(reading.missing)["domains[package-1]"]


def test_limits_are_the_long_term_constraint_and_zero_means_none(tree: Sysfs, clock: Clock) -> None:
    tree.zone(
        "intel-rapl:0",
        "package-0",
        constraint_0_name="short_term",
        constraint_0_power_limit_uw=252_000_000,
        constraint_1_name="long_term",
        constraint_1_power_limit_uw=205_000_000,
        constraint_1_max_power_uw=210_000_000,
        constraint_1_min_power_uw=0,
    )
    row = rows(source(tree, clock).read(1))["package-0"]
    assert (row["limit_w"], row["limit_min_w"], row["limit_max_w"]) == (205.0, None, 210.0)


# --- hwmon -----------------------------------------------------------------------------------------------------------


def test_hwmon_gives_amd_sockets_meters_and_boards(tree: Sysfs, clock: Clock) -> None:
    tree.chip(
        2,
        "amd_energy",
        energy1_input=1_000_000,
        energy1_label="Ecore000",
        energy2_input=5_000_000,
        energy2_label="Esocket0",
    )
    tree.chip(0, "power_meter", power1_average=412_000_000, power1_cap=800_000_000, power1_cap_max=900_000_000)
    tree.chip(1, "ina3221", power1_input=12_500_000, power1_label="VDD_IN")
    probe = source(tree, clock)
    probe.read(1)
    clock.now_s += 2
    (tree.sys / "class/hwmon/hwmon2/energy2_input").write_text("125000000\n")
    reading = probe.read(2)
    got = rows(reading)
    assert {name: (row["kind"], row["power_w"], row["source"]) for name, row in got.items()} == {
        "power_meter/1": ("chassis", 412.0, "hwmon"),
        "ina3221/VDD_IN": ("other", 12.5, "hwmon"),
        "amd_energy/Esocket0": ("cpu_package", 60.0, "hwmon"),  # its cores are in it
    }
    assert (got["power_meter/1"]["limit_w"], got["power_meter/1"]["limit_max_w"]) == (800.0, 900.0)
    assert reading.host is not None and reading.host.cpu_power_w == 60.0


def test_graces_meters_are_told_by_their_text_and_nest(tree: Sysfs, clock: Clock) -> None:
    """NVIDIA's superchips: four ACPI meters a socket, each a chip of one name with its files in device/."""
    meters = [("Module", 480), ("Grace", 171), ("CPU", 96), ("SysIO", 31)]
    for n, (part, watts) in enumerate((p, w + 10 * number) for number in range(2) for p, w in meters):
        device = tree.chip(n, "power_meter") / "device"
        device.mkdir()
        (device / "power1_oem_info").write_text(f"{part} Power Socket {n // 4}\n")
        (device / "power1_average").write_text(f"{watts * 1_000_000}\n")
        (device / "power1_cap").write_text("0\n")
    reading = source(tree, clock).read(1)
    got = {name: (row["kind"], row["power_w"], row["parent"]) for name, row in rows(reading).items()}
    for number in range(2):
        module, grace = f"power_meter/Module Power Socket {number}", f"power_meter/Grace Power Socket {number}"
        assert got[module] == ("board", 480.0 + 10 * number, None)
        assert got[grace] == ("cpu_package", 171.0 + 10 * number, module)
        assert got[f"power_meter/CPU Power Socket {number}"] == ("cpu_core", 96.0 + 10 * number, grace)
        assert got[f"power_meter/SysIO Power Socket {number}"] == ("cpu_uncore", 31.0 + 10 * number, grace)
    assert reading.host is not None
    assert (len(got), reading.host.cpu_power_w) == (8, 352.0)


def test_a_grace_without_a_module_meter_is_its_own_whole(tree: Sysfs, clock: Clock) -> None:
    for n, part in enumerate(("Grace", "CPU")):
        tree.chip(n, "power_meter", power1_oem_info=f"{part} Power Socket 0", power1_average=50_000_000)
    got = {name: row["parent"] for name, row in rows(source(tree, clock).read(1)).items()}
    assert got == {
        "power_meter/Grace Power Socket 0": None,
        "power_meter/CPU Power Socket 0": "power_meter/Grace Power Socket 0",
    }


def test_an_acpi_meter_with_its_files_in_device_is_the_chassis(tree: Sysfs, clock: Clock) -> None:
    device = tree.chip(0, "power_meter") / "device"
    device.mkdir()
    for name, text in {"power1_average": 412_000_000, "power1_cap": 800_000_000}.items():
        (device / name).write_text(f"{text}\n")
    (row,) = rows(source(tree, clock).read(1)).values()
    assert (row["kind"], row["power_w"], row["limit_w"]) == ("chassis", 412.0, 800.0)


def test_a_jetsons_rails_are_voltage_times_current(tree: Sysfs, clock: Clock) -> None:
    """Its monitor gives no power: millivolts times milliamperes are microwatts. What is not connected is no rail."""
    rails: dict[str, int | str] = {
        "in1_label": "VDD_GPU_SOC", "in1_input": 19_000, "curr1_input": 252,
        "in2_label": "VDD_CPU_CV", "in2_input": 19_000, "curr2_input": "gone",
        "in3_label": "NC", "in3_input": 0, "curr3_input": 0,
        "in4_label": "sum of shunts", "in4_input": 5,
    }  # fmt: skip
    tree.chip(0, "ina3221", **rails)
    reading = source(tree, clock).read(1)
    assert {name: row["power_w"] for name, row in rows(reading).items() if row["source"] == "hwmon"} == {
        "ina3221/VDD_GPU_SOC": 4.788
    }
    assert "curr2_input cannot be read (it says gone)" in dict(reading.missing)["domains[ina3221/VDD_CPU_CV]"]


def test_an_epyc_a_client_board_and_two_dies(tree: Sysfs, clock: Clock) -> None:
    """As kernels name them: AMD's packages with cores only; psys beside a package; dies; MMIO's copy of a package."""
    tree.zone("intel-rapl:0", "package-0-die-0")
    tree.zone("intel-rapl:0:0", "core")
    tree.zone("intel-rapl:1", "package-0-die-1")
    tree.zone("intel-rapl:2", "psys")
    tree.zone("intel-rapl-mmio:0", "package-0-die-0")
    found = {name: (row["kind"], row["parent"]) for name, row in rows(source(tree, clock).read(1)).items()}
    assert found == {
        "package-0-die-0": ("cpu_package", None),
        "package-0-die-0/core": ("cpu_core", "package-0-die-0"),
        "package-0-die-1": ("cpu_package", None),
        "psys": ("psys", None),
    }


def test_hwmon_of_the_cpu_is_left_out_where_powercap_has_it(tree: Sysfs, clock: Clock) -> None:
    tree.zone("intel-rapl:0", "package-0")  # AMD's too: its driver takes Intel's name
    tree.chip(0, "amd_energy", energy1_input=5, energy1_label="Esocket0")
    assert list(rows(source(tree, clock).read(1))) == ["package-0"]


def test_two_chips_of_one_name_are_two_domains(tree: Sysfs, clock: Clock) -> None:
    tree.chip(0, "pmbus", power1_input=1_000_000)
    tree.chip(1, "pmbus", power1_input=2_000_000)
    got = rows(source(tree, clock).read(1))
    assert [(name, row["power_w"], row["kind"]) for name, row in got.items()] == [
        ("pmbus/1", 1.0, "supply"),
        ("pmbus/1#2", 2.0, "supply"),
    ]


# --- the estimate ----------------------------------------------------------------------------------------------------


def test_only_where_nothing_measures_the_cpu_it_is_estimated_and_says_how_wrong(tree: Sysfs, clock: Clock) -> None:
    tree.stat(100, 900, cpus=16)
    probe = source(tree, clock)
    assert (probe.probe().present, probe.probe().capability) == (True, ("host.cpu.power.estimated",))
    assert rows(probe.read(1))["cpu-estimate"]["power_w"] is None
    tree.stat(150, 950, cpus=16)
    reading = probe.read(2)
    row = rows(reading)["cpu-estimate"]
    assert (row["quality"], reading.quality, row["power_w"]) == ("estimated", "estimated", 53.0)
    assert dict(reading.missing)["domains[cpu-estimate].quality"] == (
        "nothing measures the CPU here: estimated from load over 16 threads, "
        "off by 41% on average and 51% at worst on CPUs that the fit had not seen"
    )
    assert reading.host is None  # the host's reading has no quality of its own
    tree.zone("intel-rapl:0", "package-0")
    assert "cpu-estimate" not in rows(probe.read(3))
    assert rows(source(tree, clock, estimate=False).read(4)).keys() == {"package-0"}


def test_the_coefficients_and_their_error_follow_from_the_recorded_cpus() -> None:
    """Least squares per thread, each CPU model of equal weight; the error is of the model left out."""
    np = pytest.importorskip("numpy")
    points: dict[str, list[tuple[int, float, float]]] = {}
    for path in sorted(DATA.glob("*.csv")):
        with path.open(newline="") as file:
            runs = list(csv.DictReader(file))
        threads = max(int(run["cores_used"]) for run in runs)
        for run in runs[1:]:  # the first has no counter before it
            point = (threads, float(run["cpu_load"]) / 100, float(run["rapl_power"]))
            points.setdefault(run["cpu_name"], []).append(point)

    def fit(cpus: list[str]) -> Any:
        chosen = [(load, watts / n, len(points[cpu]) ** -0.5) for cpu in cpus for n, load, watts in points[cpu]]
        load, per_thread, weight = (np.array(column) for column in zip(*chosen, strict=True))
        return np.linalg.lstsq(np.c_[weight, load * weight], per_thread * weight, rcond=None)[0]

    errors = []
    for cpu in points:
        idle, busy = fit([other for other in points if other != cpu])
        off = [abs(n * (idle + busy * load) - watts) for n, load, watts in points[cpu]]
        errors.append(sum(off) / sum(watts for _, _, watts in points[cpu]))
    idle, busy = fit(list(points))
    c = cpu_estimate.coefficients()
    assert (c.idle_w_per_thread, c.busy_w_per_thread) == pytest.approx((idle, busy), abs=0.002)
    assert (c.error_ratio, c.worst_error_ratio) == pytest.approx((sum(errors) / len(errors), max(errors)), abs=0.005)


def test_nothing_here_is_one_sentence(tree: Sysfs, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "rapl", "--root", str(tree.root)]) == FAILED
    error = capsys.readouterr().err
    assert f"no power domain under {tree.sys}/class/powercap nor {tree.sys}/class/hwmon" in error
    assert "mount the host's /sys and set EO_SYSFS_ROOT to it" in error


# --- the referee -----------------------------------------------------------------------------------------------------


@pytest.fixture
def exporter(tree: Sysfs) -> Iterator[str]:
    """Prometheus' node_exporter on the same tree, on a free port."""
    binary = require_peer("prometheus-node-exporter")
    tree.zone("intel-rapl:0", "package-0", raw_uj=RANGE_UJ - 50_000_000)
    tree.zone("intel-rapl:0:0", "core", raw_uj=RANGE_UJ - 20_000_000)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--path.sysfs={tree.sys}", "--collector.disable-defaults", "--collector.rapl"]
    process = subprocess.Popen(
        [binary, *options, f"--web.listen-address=127.0.0.1:{port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield _wait_for(f"http://127.0.0.1:{port}/metrics")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)


def _wait_for(url: str) -> str:
    for _ in range(200):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return url
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


def _joules(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text = answer.read().decode()
    return {m[1]: float(m[2]) for m in re.finditer(r"^node_rapl_(\w+)_joules_total\{[^}]*\} (\S+)$", text, re.M)}


def test_node_exporter_says_the_same_over_two_wraps(tree: Sysfs, clock: Clock, exporter: str) -> None:
    """The exporter gives raw counters, ours is monotone: equal modulo the range, at every one of the updates."""
    probe = source(tree, clock)
    wraps = 0
    for n in range(60):
        reading = rows(probe.read(n))
        theirs = _joules(exporter)
        ours = {name: reading[row]["energy_mj"] for name, row in (("package", "package-0"), ("core", "package-0/core"))}
        for name, energy_mj in ours.items():
            assert (energy_mj * 1000) % RANGE_UJ == pytest.approx(theirs[name] * 1e6, abs=1_000), (n, name)
        wraps = tree.true_uj["intel-rapl:0"] // RANGE_UJ
        clock.now_s += 10
        tree.move("intel-rapl:0", 9_000_000_000)
        tree.move("intel-rapl:0:0", 6_000_000_000)
    assert wraps >= 2
