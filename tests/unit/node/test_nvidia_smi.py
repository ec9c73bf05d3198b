"""nvidia-smi: every recording against a table read by hand, every driver's spelling, and what each bad text gets."""

from __future__ import annotations

import json
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.cli.base import DONE, FAILED
from agents.cli.main import main
from agents.node.errors import SourceError
from agents.node.sources import smi_rows, smi_text, smi_tree
from agents.node.sources.base import Reading
from agents.node.sources.nvidia_smi import NvidiaSmiSource
from agents.node.sources.rows import of_domains

DATA = Path(__file__).parents[2] / "data/nvidia_smi"
MIB = 1.048576

# Read out of the files by eye: file -> one line per GPU of
# name, W average, W instant, limits W (enforced, requested, default, min, max), MHz (SM, SM max, memory),
# % (GPU, memory), MiB (used, total), C (GPU, memory), reasons
COLUMNS = (
    "name", "power_w", "power_instant_w",
    "limit_w", "limit_requested_w", "limit_default_w", "limit_min_w", "limit_max_w",
    "sm_mhz", "sm_max_mhz", "mem_mhz", "util_ratio", "mem_util_ratio", "mem_used_mb", "mem_total_mb", "temp_c",
    "mem_temp_c", "throttle",
)  # fmt: skip
N = None
GB, H100 = "NVIDIA GB200", "NVIDIA H100 80GB HBM3"


def _gb(power: float, instant: float, temp: int, mem_temp: int) -> tuple[Any, ...]:
    return (GB, power, instant, 1200, 1200, 1200, 200, 1200, 120, 2062, 3996, 0, 0, 0, 189471, temp, mem_temp, 1)


def _h100(power: float, instant: float, temp: int, mem_temp: int) -> tuple[Any, ...]:
    return (H100, power, instant, 700, 700, 700, 200, 700, 345, 1980, 2619, 0, 0, 0, 81559, temp, mem_temp, 1)


MOCK = (GB, 618.35, 565.11, 1000, 1000, 1000, 400, 1200, 345, 2100, 2500, 50, 25, 0, 196608, 63, 34, 1)
HAND: dict[str, list[tuple[Any, ...]]] = {
    "k8s_mock_qx-gb200-ecc-injected.xml": [MOCK, MOCK],
    "k8s_mock_qx-gb200-lost.xml": [
        MOCK,
        (GB, N, N, 1000, 1000, 1000, 400, 1200, N, 2100, N, N, N, N, N, N, 34, 1),
    ],
    "k8s_mock_qx-gb200-throttle-counters.xml": [
        (GB, 145, 145, 1000, 1000, 1000, 400, 1200, 345, 2100, 2500, 36, 22, 0, 196608, 36, 34, 1),
        (GB, 145, 145, 1000, 1000, 1000, 400, 1200, 345, 2100, 2500, 40, 22, 0, 196608, 36, 34, 1),
    ],
    "k8s_qx-a100.xml": [
        ("NVIDIA A100-SXM4-40GB", 49.68, 49.68, 400, 400, 400, 100, 400, 210, 1410, 1215, 0, 0, 0, 40960, 33, 34, 1)
    ],
    "k8s_qx-gb200.xml": [
        _gb(165.93, 165.93, 27, 27), _gb(168.57, 168.57, 28, 27),
        _gb(156.48, 156.48, 27, 28), _gb(171.99, 171.61, 26, 27),
    ],
    "k8s_qx-h100.xml": [
        _h100(68.57, 68.92, 29, 37), _h100(67.01, 67.16, 30, 39), _h100(67.45, 67.74, 29, 38),
        _h100(71.37, 71.77, 32, 39), _h100(66.66, 66.34, 32, 37), _h100(68.11, 68.25, 29, 37),
        _h100(69.80, 70.01, 31, 37), _h100(68.07, 68.18, 29, 38),
    ],
    "k8s_qx-l40s.xml": [
        ("NVIDIA L40S", 65.64, 66.16, 350, 350, 350, 100, 350, 2040, 2520, 9001, 0, 0, 0, 46068, 29, N, 1)
    ],
    "k8s_qx-t4.xml": [("Tesla T4", 33.51, 33.51, 70, 70, 70, 60, 70, 1590, 1590, 5000, 0, 0, 0, 15360, 33, N, 1)],
    "telegraf_a100-sxm4-v12.xml": [
        ("NVIDIA A100-SXM4-80GB", 67.03, N, 500, 500, 500, 100, 500, 1275, 1410, 1593, N, N, 50, 81920, 27, 44, 0)
    ],
    "telegraf_a10g.xml": [
        ("NVIDIA A10G", 25.58, N, 300, 300, 300, 100, 300, 210, 1710, 405, 0, 0, 22, 23028, 17, N, 1)
    ],
    "telegraf_rtx-3080-v13.xml": [
        (
            "NVIDIA GeForce RTX 3080", 139.62, 142.33, 320, 320, 320, 100, 336, 1950, 2100, 9251, 65, 9, 9184, 10240,
            27, N, 0,
        )
    ],
    "telegraf_tesla-t4.xml": [("Tesla T4", 26.78, N, 70, 70, 70, 60, 70, 585, 1590, 5000, 0, 0, 1032, 15360, 40, N, 0)],
    "mertside_INFO_A100.txt": [("NVIDIA A100-PCI...", 32, N, 250, N, N, N, N, N, N, N, 0, N, 0, 40536, 27, N, N)],
    "mertside_INFO_H100.txt": [
        ("NVIDIA H100 NVL", 61, N, 400, N, N, N, N, N, N, N, 0, N, 1, 95830, 29, N, N),
        ("NVIDIA H100 NVL", 62, N, 400, N, N, N, N, N, N, N, N, N, 101, 95830, 32, N, N),
    ],
    "made_390-quadro-and-lost.xml": [
        ("Quadro K620", N, N, N, N, N, N, N, 135, 1124, 405, 3, 1, 10, 1998, 45, N, 1),
        ("Tesla K80", N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N),
    ],
    "made_470-a100-mig.xml": [
        ("NVIDIA A100-SXM4-40GB", 394.87, N, 395, 400, 400, 100, 400, 1335, 1410, 1215, N, N, 25, 40536, 34, 33, 4)
    ],
    "made_535-gh200.xml": [
        ("NVIDIA GH200 480GB", 101.43, N, 900, 900, 900, 100, 900, 1980, 1980, 2619, 0, 0, 0, 97871, 28, 27, 1)
    ],
    "made_540-jetson-orin.xml": [("Orin (nvgpu)", N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N, N)],
    "made_550-vgpu-guest.xml": [
        ("GRID A100D-20C", N, N, N, N, N, N, N, 1155, N, 1512, 0, 0, 1, 20480, N, N, N)
    ],
    "made_580-gb300.xml": [
        (
            "NVIDIA GB300", 1189.02, 1231.55, 1400, 1400, 1400, 200, 1400, 1920, 2070, 3996, 100, 61, 201344, 284208,
            63, 70, 0x80,
        )
    ],
    "mertside_INFO_V100.txt": [("Tesla V100-PCIE...", 23, N, 250, N, N, N, N, N, N, N, 0, N, 0, 32510, 22, N, N)],
}  # fmt: skip


def test_the_table_has_every_recording() -> None:
    assert set(HAND) == {path.name for path in DATA.iterdir()} - {"README.md"}


@pytest.mark.parametrize("name", sorted(HAND))
def test_every_recording_equals_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "nvidia-smi", "--file", str(DATA / name), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    assert len(found["gpus"]) == len(HAND[name])
    for row, values in zip(found["gpus"], HAND[name], strict=True):
        for column, value in zip(COLUMNS, values, strict=True):
            factor = 0.01 if column.endswith("_ratio") else MIB if column.endswith("_mb") else 1
            wanted = (
                value if value is None or isinstance(value, str) else pytest.approx(value * factor, rel=1e-9, abs=0)
            )
            assert row[column] == wanted, (row["uuid"], column)
            if row[column] is None:
                keys = {f"gpus.{column}", f"gpus[{row['uuid']}].{column}"}
                assert keys & set(found["missing"]), column
        assert (row["energy_mj"], row["quality"]) == (None, "measured")
    assert found["missing"]["gpus.energy_mj"] == "nvidia-smi prints no energy counter"


def read(text: str | bytes, tmp_path: Path) -> Reading:
    path = tmp_path / "smi.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return NvidiaSmiSource(file=str(path)).read(5)


def test_a_lost_gpu_says_so_and_its_neighbour_is_well(tmp_path: Path) -> None:
    found = NvidiaSmiSource(file=str(DATA / "k8s_mock_qx-gb200-lost.xml")).read(5)
    assert found.gpu is not None
    assert (found.gpu.state, found.ts_ns) == (("ok", "lost"), 5)
    assert ("gpus[GPU-b200b200-0000-0000-0000-000000000001].power_w", "nvidia-smi says 'GPU is lost'") in found.missing


def test_module_board_and_memory_nest_so_that_no_watt_counts_twice() -> None:
    found = NvidiaSmiSource(file=str(DATA / "k8s_qx-gb200.xml")).read(1).domains
    assert found is not None
    assert found.parent is not None
    assert found.power_w is not None
    assert found.limit_w is not None
    first = list(zip(found.name, found.kind, found.parent, found.power_w, found.limit_w, strict=True))[:3]
    assert first == [
        ("gpu-0/module", "board", None, 467.17, 2500.0),
        ("gpu-0", "gpu", "gpu-0/module", 165.93, None),
        ("gpu-0/memory", "dram", "gpu-0", 30.26, None),
    ]
    roots = [w for w, parent in zip(found.power_w, found.parent, strict=True) if parent is None]
    assert roots == [467.17, 460.15, 459.80, 452.43]
    assert NvidiaSmiSource(file=str(DATA / "k8s_qx-l40s.xml")).read(1).domains is None


@pytest.mark.parametrize(
    ("name", "module_w", "limit_w", "memory_w"),
    [("made_535-gh200.xml", 174.9, 1000.0, None), ("made_580-gb300.xml", 2804.18, 3100.0, 211.1)],
)
def test_a_superchips_module_holds_its_gpu_in_every_spelling(
    name: str, module_w: float, limit_w: float, memory_w: float | None
) -> None:
    reading = NvidiaSmiSource(file=str(DATA / name)).read(1)
    rows = {row["name"]: row for row in of_domains(reading.domains)}
    module = rows["gpu-0/module"]
    assert (module["power_w"], module["limit_w"], rows["gpu-0"]["parent"]) == (module_w, limit_w, "gpu-0/module")
    assert rows.get("gpu-0/memory", {}).get("power_w") == memory_w


def test_a_gpu_without_any_value_is_there_with_its_reasons() -> None:
    reading = NvidiaSmiSource(file=str(DATA / "made_540-jetson-orin.xml")).read(1)
    assert reading.gpu is not None
    assert reading.gpu.uuid == ("PCI-0",)
    assert dict(reading.missing)["gpus.power_w"] == "nvidia-smi says 'N/A'"


def test_fans_are_sensors() -> None:
    found = NvidiaSmiSource(file=str(DATA / "telegraf_rtx-3080-v13.xml")).read(1).sensors
    assert found is not None
    assert (found.name, found.unit, found.value) == (("gpu-0/fan",), ("percent",), (0.0,))


# --- spellings and units of drivers that no recording has ------------------------------------------------------------


def one(power: str = "", *, uuid: str = "GPU-a", extra: str = "") -> str:
    return (
        f'<?xml version="1.0" ?>\n<nvidia_smi_log><gpu id="00000000:01:00.0"><uuid>{uuid}</uuid>'
        f"<gpu_power_readings>{power}</gpu_power_readings>{extra}</gpu></nvidia_smi_log>\n"
    )


def draw(text: str) -> str:
    return f"<average_power_draw>{text}</average_power_draw>"


@pytest.mark.parametrize(
    ("text", "watts", "reason"),
    [
        ("300 W", 300.0, None),
        ("300.55", 300.55, None),
        ("[300.55 W]", 300.55, None),
        ("300550 mW", 300.55, None),
        ("0.3 kW", 300.0, None),
        ("412000 W", 412.0, "far above what this board can draw: read as milliwatts"),
        ("9000000 W", None, "is no plausible value"),
        ("-3 W", None, "is no plausible value"),
        ("300 BTU", None, "is in no unit that is known here"),
        ("N/A", None, "nvidia-smi says 'N/A'"),
        ("[N/A]", None, "nvidia-smi says '[N/A]'"),
        ("[Unknown Error]", None, "nvidia-smi says '[Unknown Error]'"),
        ("Requested functionality has been deprecated", None, "has been deprecated"),
        ("Insufficient Permissions", None, "Insufficient Permissions"),
        ("ERR!", None, "nvidia-smi says 'ERR!'"),
        ("", None, "leaves it empty"),
        ("1e5 W", None, "nvidia-smi says '1e5 W'"),
        ("nan W", None, "nvidia-smi says 'nan W'"),
    ],
)
def test_every_kind_of_power_text(text: str, watts: float | None, reason: str | None, tmp_path: Path) -> None:
    found = read(one(draw(text)), tmp_path)
    assert found.gpu is not None
    assert found.gpu.power_w == (None if watts is None else (pytest.approx(watts),))
    assert (reason or "prints no energy counter") in " ".join(text for _, text in found.missing)


def test_watts_in_milliwatts_are_told_by_the_boards_own_limit(tmp_path: Path) -> None:
    found = read(one(draw("3100 W") + "<max_power_limit>72.00 W</max_power_limit>"), tmp_path)
    assert found.gpu is not None
    assert found.gpu.power_w == (3.1,)


def test_sizes_in_every_unit_and_clocks_in_gigahertz(tmp_path: Path) -> None:
    extra = "<fb_memory_usage><total>80 GiB</total><used>1024 KiB</used></fb_memory_usage>"
    extra += "<clocks><sm_clock>1.98 GHz</sm_clock></clocks>"
    gpu = read(one(extra=extra), tmp_path).gpu
    assert gpu is not None
    assert (gpu.mem_total_mb, gpu.mem_used_mb, gpu.sm_mhz) == (
        (pytest.approx(85899.34592),),
        (pytest.approx(MIB),),
        (1980,),
    )


@pytest.mark.parametrize("word", ["event", "throttle"])
def test_reasons_become_nvmls_bits_in_both_spellings(word: str, tmp_path: Path) -> None:
    active = {"sw_power_cap": "Active", "hw_thermal_slowdown": "Active", "gpu_idle": "Not Active", "sync_boost": "N/A"}
    inner = "".join(f"<clocks_{word}_reason_{n}>{t}</clocks_{word}_reason_{n}>" for n, t in active.items())
    gpu = read(one(extra=f"<clocks_{word}_reasons>{inner}</clocks_{word}_reasons>"), tmp_path).gpu
    assert gpu is not None
    assert gpu.throttle == (0x4 | 0x40,)
    nothing = read(one(extra=f"<clocks_{word}_reasons>N/A</clocks_{word}_reasons>"), tmp_path)
    assert nothing.gpu is not None
    assert nothing.gpu.throttle is None


def test_a_driver_that_moves_limits_under_a_ceiling_and_has_reasons_without_a_bit(tmp_path: Path) -> None:
    nested = "<current_power_limit>2300.00 W</current_power_limit><default_power_limit>2300.00 W</default_power_limit>"
    reasons = "".join(
        f"<clocks_event_reason_{name}>{text}</clocks_event_reason_{name}>"
        for name, text in (("gpu_idle", "Active"), ("board_limit", "Active"), ("reliability", "Not Active"))
    )
    base = "<gpu_base_power><current_base_power>2100.00 W</current_base_power></gpu_base_power>"
    text = one(
        f"{draw('398.48 W')}<gpu_ceiling_power_limit>{nested}</gpu_ceiling_power_limit>{base}",
        extra=f"<clocks_event_reasons>{reasons}</clocks_event_reasons>",
    )
    found = read(text, tmp_path)
    assert found.gpu is not None
    assert (found.gpu.power_w, found.gpu.limit_w, found.gpu.limit_default_w) == ((398.48,), (2300.0,), (2300.0,))
    assert found.gpu.throttle == (1,)
    assert "board_limit is active and has no bit" in dict(found.missing)["gpus.throttle"]


def test_power_of_memory_or_module_is_never_the_boards(tmp_path: Path) -> None:
    extra = f"<gpu_memory_power_readings>{draw('30 W')}</gpu_memory_power_readings>"
    extra += f"<module_power_readings>{draw('700 W')}</module_power_readings>"
    found = read(one(draw("N/A"), extra=extra), tmp_path)
    assert found.gpu is not None
    assert found.gpu.power_w is None


def test_without_a_uuid_the_pci_address_stands_in(tmp_path: Path) -> None:
    found = read(one(draw("9 W"), uuid="GPU is lost"), tmp_path)
    assert found.gpu is not None
    assert (found.gpu.uuid, found.gpu.state) == (("PCI-00000000:01:00.0",), ("lost",))


def test_a_gpu_listed_twice_is_read_once(tmp_path: Path) -> None:
    text = one(draw("9 W")).replace("</nvidia_smi_log>", "<gpu><uuid>GPU-a</uuid></gpu></nvidia_smi_log>")
    found = read(text, tmp_path)
    assert found.gpu is not None
    assert (found.gpu.uuid, found.gpu.power_w) == (("GPU-a",), (9.0,))
    assert ("gpus[GPU-a]", "listed twice; the first holds") in found.missing


QUERY = """
==============NVSMI LOG==============

Timestamp                                 : Fri Jul  4 19:19:44 2025
Driver Version                            : 535.54.03

Attached GPUs                             : 1
GPU 00000000:21:00.0
    Product Name                          : NVIDIA A100-PCIE-40GB
    GPU UUID                              : GPU-11111111-2222-3333-4444-555555555555
    MIG Mode
        Current                           : Disabled
    Clocks Event Reasons
        Idle                              : Not Active
        SW Power Cap                      : Active
        HW Slowdown                       : Active
            HW Thermal Slowdown           : Not Active
            HW Power Brake Slowdown       : Active
    FB Memory Usage
        Total                             : 40960 MiB
        Used                              : 12 MiB
    Utilization
        Gpu                               : 87 %
        Memory                            : 40 %
    Temperature
        GPU Current Temp                  : 61 C
        Memory Current Temp               : 70 C
    GPU Power Readings
        Power Draw                        : 212.50 W
        Instantaneous Power Draw          : 215.00 W
        Current Power Limit               : 250.00 W
    Module Power Readings
        Power Draw                        : N/A
    Clocks
        SM                                : 1410 MHz
        Memory                            : 1215 MHz
    Max Clocks
        SM                                : 1410 MHz
"""


def test_the_indented_text_reads_like_the_xml(tmp_path: Path) -> None:
    gpu = read(QUERY, tmp_path).gpu
    assert gpu is not None
    assert gpu.uuid == ("GPU-11111111-2222-3333-4444-555555555555",)
    assert gpu.power_instant_w == (215.0,)
    assert (gpu.power_w, gpu.limit_w, gpu.sm_mhz, gpu.sm_max_mhz, gpu.mem_mhz) == (
        (212.5,),
        (250.0,),
        (1410,),
        (1410,),
        (1215,),
    )
    assert (gpu.util_ratio, gpu.mem_util_ratio, gpu.temp_c, gpu.mem_temp_c) == ((0.87,), (0.4,), (61.0,), (70.0,))
    assert (gpu.throttle, gpu.mem_used_mb) == ((0x4 | 0x8 | 0x80,), (12 * MIB,))


# --- hostile and broken text -----------------------------------------------------------------------------------------

WHOLE = (DATA / "k8s_mock_qx-gb200-throttle-counters.xml").read_bytes()


def test_a_text_cut_anywhere_gives_whole_gpus_or_one_sentence(tmp_path: Path) -> None:
    ends = [n + 6 for n in range(len(WHOLE)) if WHOLE.startswith(b"</gpu>", n)]
    for cut in range(0, len(WHOLE), 501):
        whole = sum(end <= cut for end in ends)
        if whole == 0:
            with pytest.raises(SourceError, match=r"lists no GPU"):
                read(WHOLE[:cut], tmp_path)
            continue
        found = read(WHOLE[:cut], tmp_path)
        assert found.gpu is not None
        assert found.gpu.power_w == (145.0,) * whole
        assert "breaks off or is no XML at line" in dict(found.missing)["text"]


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ('<!DOCTYPE nvidia_smi_log [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>', "it declares entities"),
        ('<!DOCTYPE nvidia_smi_log [<!ENTITY x SYSTEM "file:///etc/passwd">]>', "it declares entities"),
        ('<!DOCTYPE nvidia_smi_log [<!ENTITY % x SYSTEM "http://169.254.169.254/">%x;]>', "it declares entities"),
    ],
)
def test_no_entity_is_ever_expanded(prefix: str, words: str, tmp_path: Path) -> None:
    text = prefix + one(draw("9 W"), extra="<product_name>&b;</product_name>").removeprefix('<?xml version="1.0" ?>\n')
    with pytest.raises(SourceError, match=words):
        read(text, tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<nvidia_smi_log>" + "<a>" * 100_000, "more than 32 levels"),
        ("<nvidia_smi_log>" + "<a/>" * 250_000, "more than 32 levels, 200000 elements"),
        ("<nvidia_smi_log>" + "<gpu/>" * 500, "or 256 GPUs"),
        ("<nvidia_smi_log></nvidia_smi_log>", "is it the output of `nvidia-smi -q -x`?"),
        ("", "is it the output of `nvidia-smi -q -x`?"),
        ("No devices were found\n", "lists no GPU: No devices were found"),
        ("\nNVIDIA-SMI has failed because it couldn't communicate\n", "NVIDIA-SMI has failed because it couldn't"),
        ("Failed to initialize NVML: Driver/library version mismatch\n", "NVML: Driver/library version mismatch"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "lists no GPU"),
        ("<html><body>502</body></html>", "lists no GPU"),
        ("\x00\xff" * 5000, "lists no GPU"),
    ],
)
def test_what_is_no_output_is_one_sentence_and_code_1(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "smi.xml"
    path.write_text(text)
    code = main(["read", "nvidia-smi", "--file", str(path)])
    told = capsys.readouterr()
    if "256 GPUs" in words:  # those that were complete before the bound are kept
        assert code == DONE
        assert words in told.out
        return
    assert code == FAILED
    (line,) = told.err.splitlines()
    assert words in line


def test_odd_bytes_in_names_and_processes_harm_nothing(tmp_path: Path) -> None:
    body = one(draw("9 W"), extra="<product_name>NVIDIA X\x01</product_name>").encode()
    odd = b"<processes><process_info><process_name>a & b < \xff\xfe</process_name></process_info></processes></gpu>"
    found = read(body.replace(b"</gpu>", odd), tmp_path)
    assert found.gpu is not None
    assert (found.gpu.power_w, found.gpu.name) == ((9.0,), ("NVIDIA X\ufffd",))
    wide = read(one(draw("9 W")).encode("utf-16"), tmp_path)
    assert wide.gpu is not None
    assert wide.gpu.power_w == (9.0,)


def test_open_sections_do_not_cost_quadratic_time() -> None:
    smi_tree.gpus("<nvidia_smi_log>" + "<processes>" * 300_000)
    smi_text.gpus("| 0  x" + " " * 300_000 + "\n" + "GPU 0000:" + "0" * 300_000)


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=300))
def test_no_text_makes_it_raise(text: str) -> None:
    for body in (text, f"<nvidia_smi_log><gpu>{text}</gpu></nvidia_smi_log>", QUERY + text, f"GPU 0000:01\n{text}"):
        nodes, _, _ = smi_tree.gpus(body)
        for node in nodes + smi_text.gpus(body):
            smi_rows.row(node)


# --- the program -----------------------------------------------------------------------------------------------------


def program(tmp_path: Path, script: str) -> str:
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_the_program_is_run_and_its_text_read(tmp_path: Path) -> None:
    (tmp_path / "out.xml").write_bytes(WHOLE)
    path = program(tmp_path, f'[ "$*" = "-q -x" ] && cat {tmp_path}/out.xml; exit 15')  # a lost GPU ends with a code
    source = NvidiaSmiSource(path)
    assert source.probe().capability == (
        "gpu.power", "gpu.limit", "gpu.clock", "gpu.utilisation", "gpu.memory", "gpu.temperature", "gpu.throttle",
    )  # fmt: skip
    gpu = source.read(1).gpu
    assert gpu is not None
    assert gpu.power_w == (145.0, 145.0)
    source.close()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'NVIDIA-SMI has failed because x'; exit 9", "it ended with code 9 (NVIDIA-SMI has failed because x)"),
        ("exit 0", "it ended with code 0 (no output)"),
        ("sleep 600", "took longer than 0.3 s and was ended; is the device stuck?"),
        ("sleep 600 & echo; exec >&- 2>&-; wait", "took longer than 0.3 s and was ended"),
    ],
)
def test_a_program_that_fails_is_one_sentence(script: str, words: str, tmp_path: Path) -> None:
    source = NvidiaSmiSource(program(tmp_path, script), deadline_s=0.3 if "sleep" in script else 30)
    probe = source.probe()
    assert not probe.present
    assert words in (probe.reason or "")


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    path = program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(SourceError, match="was ended"):
        NvidiaSmiSource(path, deadline_s=1.0).read(1)
    child = int((tmp_path / "child").read_text())
    due = time.monotonic() + 20
    while running(child):
        assert time.monotonic() < due, "the child outlives its parent"
        time.sleep(0.01)


def running(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has collected yet does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_program_that_writes_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smi_tree, "MAX_BYTES", 100_000)
    with pytest.raises(SourceError, match="wrote more than 100000 bytes and was ended"):
        NvidiaSmiSource(program(tmp_path, "yes"), deadline_s=60).read(1)


def test_no_program_is_absent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EO_NODE_NVIDIA_SMI_PATH", "/nowhere/nvidia-smi")
    assert main(["read", "nvidia_smi"]) == FAILED
    assert "/nowhere/nvidia-smi is not installed here; install it, or go on without" in capsys.readouterr().err
    assert "cannot be run (Permission denied)" in (NvidiaSmiSource(str(DATA / "README.md")).probe().reason or "")


def test_a_table_cell_that_says_na_is_not_read_as_two_values(tmp_path: Path) -> None:
    path = tmp_path / "smi.txt"
    path.write_text(
        "|   1  NVIDIA H100 80GB HBM3          On  |   00000000:9B:00.0 Off |                   On |\n"
        "| N/A   31C     P0            86W /  700W |                  N/A   |     N/A      Default |\n"
    )
    reading = NvidiaSmiSource(file=str(path)).read(0)
    assert reading.gpu is not None and (reading.gpu.power_w, reading.gpu.temp_c) == ((86.0,), (31.0,))
    missing = dict(reading.missing)
    assert missing["gpus.mem_used_mb"] == missing["gpus.mem_total_mb"] == "nvidia-smi says 'N/A'"
