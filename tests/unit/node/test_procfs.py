"""The host's files from a recorded tree: deltas, control groups of both versions, files that are missing or odd."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agents.node.sources.procfs import ProcfsSource
from streams.contract.records import CgroupColumns, HostReading

DATA = Path(__file__).parents[2] / "data" / "procfs"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return Path(shutil.copytree(DATA / "v2", tmp_path / "root"))


def host(source: ProcfsSource) -> HostReading:
    found = source.read(1).host
    assert found is not None
    return found


def test_reads_a_recorded_tree(root: Path) -> None:
    source = ProcfsSource(root)
    assert source.probe().capability == ("host.cpu", "host.memory", "host.network", "host.cgroup")
    assert host(source) == HostReading(
        cpu_util_ratio=None,
        load1=0.52,
        uptime_s=12345.67,
        mem_used_mb=(32_000_000 - 20_000_000) * 1024 / 1e6,
        mem_total_mb=32_000_000 * 1024 / 1e6,
        net_rx_bytes=5_000 + 700,
        net_tx_bytes=3_000 + 800,
        cgroup=CgroupColumns(
            path=("/kubepods", "/kubepods/pod1", "/system.slice", "/system.slice/kafka.service"),
            cpu_us=(900, 500, 4000, 3500),
        ),
    )


def test_cpu_use_is_the_share_between_two_readings(root: Path) -> None:
    source = ProcfsSource(root)
    assert host(source).cpu_util_ratio is None
    (root / "proc/stat").write_text("cpu  1060 0 500 8020 20 0 0 0 0 0\n")
    assert host(source).cpu_util_ratio == pytest.approx(60 / 100)
    assert host(source).cpu_util_ratio is None  # no time has passed
    (root / "proc/stat").write_text("cpu  5 0 5 10 0 0 0 0 0 0\n")
    assert host(source).cpu_util_ratio is None  # counters began again


def test_reads_cgroup_v1_in_microseconds() -> None:
    found = host(ProcfsSource(DATA / "v1")).cgroup
    assert found == CgroupColumns(path=("/docker", "/docker/abc"), cpu_us=(2_000, 1_500))


def test_keeps_the_busiest_groups_below_the_bound(root: Path) -> None:
    found = host(ProcfsSource(root, max_cgroups=2)).cgroup
    assert found == CgroupColumns(path=("/system.slice", "/system.slice/kafka.service"), cpu_us=(4000, 3500))


@pytest.mark.parametrize(
    ("name", "text", "field"),
    [
        ("proc/stat", None, "cpu_util_ratio"),
        ("proc/stat", "cpu  x\n", "cpu_util_ratio"),
        ("proc/loadavg", "", "load1"),
        ("proc/uptime", "soon", "uptime_s"),
        ("proc/meminfo", "MemTotal:  5 kB\n", "mem_used_mb"),
        ("proc/net/dev", None, "net_rx_bytes"),
        ("proc/net/dev", "a\nb\n    lo: 1 2 3 4 5 6 7 8 9\n", "net_tx_bytes"),
    ],
)
def test_an_odd_file_makes_only_its_own_field_unknown(root: Path, name: str, text: str | None, field: str) -> None:
    if text is None:
        (root / name).unlink()
    else:
        (root / name).write_text(text)
    found = host(ProcfsSource(root))
    assert getattr(found, field) is None
    others = {"load1", "uptime_s", "mem_total_mb", "net_rx_bytes"} - {field}
    assert all(getattr(found, other) is not None for other in others if field[:3] != other[:3])


def test_a_group_that_ends_while_being_read_is_left_out(root: Path) -> None:
    (root / "sys/fs/cgroup/kubepods/pod1/cpu.stat").unlink()
    (root / "sys/fs/cgroup/system.slice/cpu.stat").write_text("nr_periods 0\n")
    found = host(ProcfsSource(root)).cgroup
    assert found is not None
    assert found.path == ("/kubepods", "/system.slice/kafka.service")


def test_a_place_without_proc_is_absent(tmp_path: Path) -> None:
    probe = ProcfsSource(tmp_path).probe()
    assert probe.present is False
    assert "needs Linux with /proc mounted" in (probe.reason or "")


def test_reads_this_machine() -> None:
    source = ProcfsSource()
    if not source.probe().present:
        pytest.skip("no /proc here")
    found = host(source)
    assert found.uptime_s is not None
    assert found.uptime_s > 0
    source.close()
