"""dcgm-exporter's text: both spellings, blanks, slices, workloads, units, and what each bad text gets."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.cli.base import DONE, FAILED
from agents.cli.main import main
from agents.node.errors import SettingsError, SourceError
from agents.node.sources import dcgm_fields, dcgm_text, prom_text, sound
from agents.node.sources.base import Reading
from agents.node.sources.dcgm import DcgmSource
from agents.node.sources.dcgm_fields import FIELDS
from streams.contract.records import GpuColumns
from tests.unit.node.text_server import ok, serving

DATA = Path(__file__).parents[2] / "data/dcgm"
HEADER = Path(__file__).parents[2] / "fakes/dcgm/include/dcgm_fields.h"
STRUCTS = HEADER.with_name("dcgm_structs.h")


def columns(text: str, known: dcgm_text.Units | None = None) -> tuple[GpuColumns, dict[str, str]]:
    gpu, missing = dcgm_text.columns(prom_text.parse(text), known or dcgm_text.Units())
    assert gpu is not None, missing
    return gpu, missing


def series(name: str, *values: float | str, labels: str = "", help_text: str = "") -> str:
    head = f"# HELP {name} {help_text}\n# TYPE {name} gauge\n" if help_text else ""
    return head + "".join(f'{name}{{gpu="{n}",UUID="GPU-{n}"{labels}}} {value}\n' for n, value in enumerate(values))


# --- the table against NVIDIA's header -------------------------------------------------------------------------------


def defines() -> dict[str, int]:
    """Every field name of the header with its number, aliases followed."""
    pairs = dict(re.findall(r"^#define (DCGM_FI_\w+)\s+(\w+)", HEADER.read_text(), re.M))
    return {name: number for name in pairs if (number := _number(pairs, name)) is not None}


def _number(pairs: dict[str, str], name: str) -> int | None:
    value = name
    for _ in range(5):
        value = pairs.get(value, value)
        if value.isdigit():
            return int(value)
    return None


def test_numbers_and_names_are_those_of_the_header() -> None:
    known = defines()
    # Profiling and two lower-case families keep older names that the header has dropped; their numbers stand in it.
    dropped = {
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO",
        "DCGM_FI_PROF_SM_ACTIVE": "DCGM_FI_PROF_SM_UTIL_RATIO",
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": "DCGM_FI_PROF_TENSOR_UTIL_RATIO",
        "DCGM_FI_PROF_DRAM_ACTIVE": "DCGM_FI_PROF_DRAM_UTIL_RATIO",
    }
    for field in FIELDS:
        for name in field.names:
            if name.startswith("DCGM_"):
                assert known.get(name) or known[dropped[name]] == field.number, name
                assert known.get(name, field.number) == field.number, name
    renamed = [f for f in FIELDS if len([n for n in f.names if n.startswith("DCGM_")]) == 2]
    assert len(renamed) >= 14
    numbers = [field.number for field in FIELDS]
    assert len(set(numbers)) == len(numbers)


def test_blanks_are_those_of_the_header() -> None:
    text = STRUCTS.read_text()
    assert f"#define DCGM_INT32_BLANK 0x{dcgm_fields.INT32_BLANK:x}" in text
    assert f"#define DCGM_INT64_BLANK 0x{dcgm_fields.INT64_BLANK:x}" in text
    assert f"#define DCGM_FP64_BLANK {dcgm_fields.FP64_BLANK}" in text
    words = {0: "blank", 1: "not found", 2: "not supported", 3: "not permitted"}
    for offset, word in words.items():
        assert dcgm_fields.blank(dcgm_fields.INT64_BLANK + offset, real=False) == word
        assert dcgm_fields.blank(dcgm_fields.FP64_BLANK + offset, real=True) == word
        assert dcgm_fields.blank32(dcgm_fields.INT32_BLANK + offset) == word
    assert dcgm_fields.blank(412.5, real=True) is None


# --- recordings ------------------------------------------------------------------------------------------------------

T4, OTHER_T4 = "GPU-20c56d28-0da5-6d26-a36a-e7af1ce2586e", "GPU-9ef1b6d0-3643-5dd7-b823-c0ec20dcf2d5"


def test_the_recorded_exporter_by_a_table_read_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "dcgm", "--file", str(DATA / "dcgm_exporter_metrics.txt"), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    rows = {row["uuid"]: row for row in found["gpus"]}
    assert set(rows) == {T4, OTHER_T4, "GPU-abc"}
    expected: dict[str, dict[str, Any]] = {
        T4: {
            "name": "Tesla T4", "power_w": 8.969, "energy_mj": 128996013, "sm_mhz": 300, "mem_mhz": 405, "temp_c": 25.0,
            "util_ratio": 0.0, "mem_util_ratio": 0.0, "mem_used_mb": 0.0, "mem_total_mb": 15109 * 1.048576, "xid": 0,
            "limit_w": None, "limit_requested_w": None, "pod": None, "state": "ok", "quality": "measured",
            "dram_active_ratio": None, "mem_temp_c": None, "sm_active_ratio": None,
        },
        OTHER_T4: {"power_w": None, "limit_requested_w": 70.0, "throttle": 1, "mem_total_mb": 15109 * 1.048576},
        "GPU-abc": {
            "name": "NVIDIA A10G", "dram_active_ratio": 0.000003, "namespace": "ray-llm", "pod": "ray-1111111",
            "container": "ray-worker", "power_w": None,
        },
    }  # fmt: skip
    for uuid, values in expected.items():
        assert {name: rows[uuid][name] for name in values} == values
    # The file's dummies carry no UUID: their zeros are nobody's readings.
    assert "series name no GPU" in found["missing"]["gpus"]
    assert "field 164" in found["missing"]["gpus.limit_w"]


def test_a_blank_is_null_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "dcgm", str(DATA / "dcgm_readme_blank_sample.txt"), "--json"]) == DONE
    found = json.loads(capsys.readouterr().out)
    (row,) = found["gpus"]
    assert (row["sm_mhz"], row["mem_mhz"], row["mem_temp_c"]) == (139, 405, None)
    assert found["missing"][f"gpus[{row['uuid']}].mem_temp_c"] == "DCGM answers blank for field 140"


@pytest.mark.parametrize("position", [0, 1, 2])
def test_every_spelling_gives_the_same_reading(position: int) -> None:
    text = "".join(series(f.names[min(position, len(f.names) - 1)], _typical(f)) for f in FIELDS)
    gpu, missing = columns(text)
    assert gpu == columns("".join(series(f.names[0], _typical(f)) for f in FIELDS))[0]
    assert (gpu.power_w, gpu.limit_w, gpu.throttle) == ((300.0,), (700.0,), (4,))
    assert (gpu.util_ratio, gpu.energy_mj, gpu.sm_mhz, gpu.xid) == ((0.5,), (50,), (1500,), (50,))
    assert missing.keys() == {"gpus[GPU-0].pod"} - {"gpus[GPU-0].pod"}


def _typical(field: dcgm_fields.Field) -> float:
    known = {155: 300, 157: 310, 160: 700, 161: 200, 162: 700, 163: 700, 164: 700, 112: 4, 100: 1500, 1603: 1.5e9}
    ratio = field.column.endswith("_active_ratio")
    return known.get(field.number, 1.5e9 if field.number in {1604, 1608} else 0.5 if ratio else 50)


def test_newer_fields_in_hertz_and_joules_stand_in_for_the_older_ones() -> None:
    text = series("DCGM_FI_DEV_SM_CLOCK_HERTZ", 1.98e9) + series("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", 12.5)
    gpu, _ = columns(text)
    assert (gpu.sm_mhz, gpu.energy_mj) == ((1980,), (12500,))


# --- blanks and bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DCGM_FI_DEV_POWER_USAGE", "140737488355330", "not supported for field 155"),
        ("DCGM_FI_DEV_POWER_USAGE", "NaN", "not a number for field 155"),
        ("DCGM_FI_DEV_POWER_USAGE", "-5", "-5 is no plausible value of DCGM_FI_DEV_BOARD_POWER_WATTS"),
        ("DCGM_FI_DEV_GPU_TEMP", "2147483635", "not permitted for field 150"),
        ("DCGM_FI_DEV_GPU_TEMP", "9223372036854775792", "blank for field 150"),
        ("DCGM_FI_DEV_MEMORY_TEMP", "0", "this memory has no sensor"),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "9223372036854775794", "blank for field 156"),
        ("DCGM_FI_DEV_SM_CLOCK", "+Inf", "blank for field 100"),
    ],
)
def test_what_is_no_value_is_null_and_harms_nothing_else(name: str, value: str, reason: str) -> None:
    column = dcgm_fields.BY_NAME[name].column
    gpu, missing = columns(series(name, value, "42") + series("DCGM_FI_DEV_XID_ERRORS", 0, 0))
    assert getattr(gpu, column)[0] is None
    assert getattr(gpu, column)[1] is not None
    assert reason in missing[f"gpus[GPU-0].{column}"]


def test_an_energy_counter_may_pass_the_32_bit_blanks() -> None:
    gpu, _ = columns(series("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 2147483635))
    assert gpu.energy_mj == (2147483635,)


def test_a_gpu_that_fell_off_the_bus_is_lost() -> None:
    blanks = series("DCGM_FI_DEV_POWER_USAGE", "140737488355328", 300) + series("DCGM_FI_DEV_XID_ERRORS", 0, 79)
    assert columns(blanks)[0].state == ("ok", "lost")
    only = columns(series("DCGM_FI_DEV_POWER_USAGE", "140737488355328", 300))[0]
    assert only.state == ("lost", "ok")


# --- slices and workloads --------------------------------------------------------------------------------------------


def mig(name: str, *values: float) -> str:
    return "".join(
        f'{name}{{gpu="0",UUID="GPU-0",GPU_I_PROFILE="1g.10gb",GPU_I_ID="{n}",pod="p{n}",namespace="ns"}} {value}\n'
        for n, value in enumerate(values, 7)
    )


def test_board_watts_of_slices_are_the_boards_once_and_no_slices_number() -> None:
    text = mig("DCGM_FI_DEV_POWER_USAGE", 412.0, 412.0) + mig("DCGM_FI_PROF_GR_ENGINE_ACTIVE", 0.5, 0.25)
    gpu, missing = columns(text + mig("DCGM_FI_DEV_FB_USED", 100, 200))
    assert gpu.uuid == ("GPU-0",)
    assert (gpu.power_w, gpu.gr_active_ratio, gpu.mem_used_mb, gpu.pod) == ((412.0,), None, None, None)
    assert "says nothing of the whole GPU" in missing["gpus[GPU-0].gr_active_ratio"]
    assert "cut into 2 MIG slices" in missing["gpus[GPU-0].pod"]


def test_the_whole_gpus_series_goes_before_its_slices_and_slices_that_disagree_give_nothing() -> None:
    whole = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-0",GPU_I_ID="",GPU_I_PROFILE=""} 400\n'
    assert columns(mig("DCGM_FI_DEV_POWER_USAGE", 1.0, 2.0) + whole)[0].power_w == (400.0,)
    gpu, missing = columns(mig("DCGM_FI_DEV_POWER_USAGE", 100.0, 200.0))
    assert gpu.power_w is None
    assert "2 series of this GPU disagree (100 to 200)" in missing["gpus[GPU-0].power_w"]


def test_mig_uuids_belong_to_the_gpu_of_their_index() -> None:
    part = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="MIG-a"} 300\nDCGM_FI_DEV_POWER_USAGE{gpu="9",UUID="MIG-b"} 3\n'
    gpu, missing = columns(series("DCGM_FI_DEV_GPU_TEMP", 50) + part)
    assert (gpu.uuid, gpu.power_w) == (("GPU-0",), (300.0,))
    assert "its board is unknown" in missing["gpus[MIG-b]"]


@pytest.mark.parametrize(
    "labels",
    [
        ',pod="p",namespace="n",container="c"',
        ',exported_pod="p",exported_namespace="n",exported_container="c",pod="exporter-x",namespace="gpu-operator"',
        ',pod_name="p",pod_namespace="n",container_name="c"',
    ],
)
def test_workload_labels_in_every_spelling(labels: str) -> None:
    gpu, _ = columns(series("DCGM_FI_DEV_POWER_USAGE", 300, labels=labels))
    assert (gpu.pod, gpu.namespace) == (("p",), ("n",))
    assert gpu.container == ("c",)


def test_an_exporters_own_pod_is_no_workload() -> None:
    bare = ',pod="nvidia-dcgm-exporter-x7",namespace="gpu-operator"'
    assert columns(series("DCGM_FI_DEV_GPU_TEMP", 40, labels=bare))[0].pod is None
    # One GPU is allocated, the other idles: behind Prometheus its bare pod is whoever exports.
    text = 'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-0",exported_pod="p",pod="exp-1",namespace="ops"} 40\n'
    text += 'DCGM_FI_DEV_GPU_TEMP{gpu="1",UUID="GPU-1",pod="exp-1",namespace="ops"} 40\n'
    gpu, _ = columns(text)
    assert (gpu.pod, gpu.namespace) == (("p", None), None)


def test_without_any_uuid_the_index_stands_in_and_says_so() -> None:
    gpu, missing = columns('DCGM_FI_DEV_POWER_USAGE{gpu="1",Hostname="n1"} 300\nDCGM_FI_DEV_GPU_TEMP{gpu="0"} 40\n')
    assert (gpu.uuid, gpu.power_w, gpu.temp_c) == (("INDEX-0", "INDEX-n1-1"), (None, 300.0), (40.0, None))
    assert "its index stands in" in missing["gpus[INDEX-n1-1].uuid"]
    both, told = columns(series("DCGM_FI_DEV_POWER_USAGE", 300) + 'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 40\n')
    assert (both.uuid, both.power_w, both.temp_c) == (("GPU-0",), (300.0,), (40.0,))
    assert not any("INDEX" in part for part in told)


def test_a_gpu_that_pods_share_is_counted_once_and_has_no_pod() -> None:
    text = "".join(f'DCGM_FI_DEV_POWER_USAGE{{gpu="0",uuid="GPU-0",hostname="h",pod="p{n}"}} 300\n' for n in range(3))
    gpu, missing = columns(text)
    assert (gpu.uuid, gpu.power_w, gpu.pod) == (("GPU-0",), (300.0,), None)
    assert "3 workloads share the GPU" in missing["gpus[GPU-0].pod"]


def test_gpus_stand_in_the_order_of_their_index() -> None:
    text = "".join(f'DCGM_FI_DEV_GPU_TEMP{{gpu="{n}",UUID="GPU-{n}"}} 40\n' for n in (10, 2, 0))
    assert columns(text)[0].uuid == ("GPU-0", "GPU-2", "GPU-10")


# --- units -----------------------------------------------------------------------------------------------------------


def test_watts_in_milliwatts_are_seen_converted_and_said() -> None:
    text = series("DCGM_FI_DEV_POWER_USAGE", 412_000, 8_900) + series(
        "DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 700_000, 700_000
    )
    gpu, missing = columns(text)
    assert (gpu.power_w, gpu.limit_w) == ((412.0, 8.9), (700.0, 700.0))
    assert missing["gpus.power_w"].startswith("warning: values near 210450 cannot be what")


def test_milliwatts_of_an_idle_board_are_told_from_watts_by_its_limit() -> None:
    text = series("DCGM_FI_DEV_POWER_USAGE", 3_100, 2_900) + series("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", 72, 72)
    gpu, missing = columns(text)
    assert gpu.power_w == (3.1, 2.9)
    assert "read as milliwatts" in missing["gpus.power_w"]


def test_one_mad_value_is_that_gpus_trouble_and_no_unit() -> None:
    gpu, missing = columns(series("DCGM_FI_DEV_POWER_USAGE", 300, 160_000, 310))
    assert gpu.power_w == (300.0, None, 310.0)
    assert "160000 is no plausible value" in missing["gpus[GPU-1].power_w"]
    known = dcgm_text.Units()
    columns(series("DCGM_FI_DEV_POWER_USAGE", 300), known)
    later, _ = columns(series("DCGM_FI_DEV_POWER_USAGE", 160_000), known)
    assert later.power_w is None  # the unit was settled before: 160 W would be an invention


def test_watts_that_no_unit_explains_are_refused() -> None:
    gpu, missing = columns(series("DCGM_FI_DEV_POWER_USAGE", 4e12) + series("DCGM_FI_DEV_GPU_TEMP", 40))
    assert gpu.power_w is None
    assert "in any unit: refused" in missing["gpus.power_w"]


def test_help_may_name_the_unit() -> None:
    text = series("DCGM_FI_DEV_POWER_USAGE", 3900, help_text="Power draw (in mW).")
    text += series("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 7, help_text="Energy since boot (in J).")
    gpu, missing = columns(text)
    assert (gpu.power_w, gpu.energy_mj) == ((3.9,), (7000,))
    assert "HELP says mW" in missing["gpus.power_w"]


def test_a_ratio_a_little_above_one_is_one_and_no_percentage() -> None:
    known = dcgm_text.Units()
    gpu, missing = columns(series("DCGM_FI_PROF_SM_ACTIVE", "1.000021", "0.999"), known)
    assert gpu.sm_active_ratio == (1.0, 0.999) and "gpus.sm_active_ratio" not in missing
    gpu, _ = columns(series("DCGM_FI_PROF_SM_ACTIVE", "0.5", "1.3"), known)  # far above is no reading
    assert gpu.sm_active_ratio == (0.5, None)
    gpu, _ = columns(series("DCGM_FI_PROF_SM_ACTIVE", "1.000021"))  # a single busy GPU at the start
    assert gpu.sm_active_ratio == (1.0,)


def test_ratios_in_percent_and_utilisation_as_a_fraction() -> None:
    text = series("DCGM_FI_PROF_SM_ACTIVE", 62.0, 80.0) + series("DCGM_FI_DEV_GPU_UTIL_RATIO", 0.87, 1)
    gpu, missing = columns(text)
    assert (gpu.sm_active_ratio, gpu.util_ratio) == ((0.62, 0.8), (0.87, 1.0))
    assert "gpus.sm_active_ratio" in missing
    assert columns(series("DCGM_FI_DEV_GPU_UTIL_RATIO", 1, 90))[0].util_ratio == (0.01, 0.9)


# --- the source ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "it holds no metric; is this an exporter's metrics path?"),
        (b"<html>" * 9 + b"\n", "1 lines are no samples and were skipped"),
        (b"vllm:num_requests_running 3\n", "it holds no series of DCGM"),
        (b"DCGM_FI_DEV_POWER_USAGE 300\n", "1 series name no GPU and are not used"),
        (b'DCGM_FI_DEV_POWER_USAGE{UUID="GPU-0"} 41', "the text ends in the middle of a line"),
        (b"\xff\xfe\x00" * 1000, "names no GPU"),
    ],
)
def test_nothing_to_read_is_one_sentence_and_code_1(
    body: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.txt"
    path.write_bytes(body)
    assert main(["read", "dcgm", "--file", str(path)]) == FAILED
    (told,) = capsys.readouterr().err.splitlines()
    assert words in told


def test_a_text_cut_anywhere_gives_true_values_or_none() -> None:
    text = (DATA / "dcgm_exporter_metrics.txt").read_text()
    whole, _ = columns(text)
    for cut in range(0, len(text), 97):
        gpu, _ = dcgm_text.columns(prom_text.parse(text[:cut]), dcgm_text.Units())
        if gpu is None:
            continue
        for name in ("power_w", "energy_mj", "sm_mhz", "limit_requested_w"):
            for uuid, value in zip(gpu.uuid, getattr(gpu, name) or (), strict=False):
                assert value in (None, getattr(whole, name)[whole.uuid.index(uuid)])


def test_an_exporter_that_stands_still_is_no_reading_and_a_reset_counter_is_one() -> None:
    now = [0.0]
    with serving() as server:
        source = DcgmSource(f"{server.url}/metrics", monotonic=lambda: now[0], stale_s=120)

        def energy(mj: int) -> None:
            server.answers["/metrics"] = ok(series("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", mj).encode())

        energy(1000)
        assert source.probe().capability == ("gpu.energy",)
        for now[0] in (0.0, 60.0, 119.0):
            assert source.read(1).gpu is not None
        now[0] = 130.0
        with pytest.raises(SourceError, match=r"the same energy counters for 130 s \(bound 120 s\): it stands still"):
            source.read(1)
        energy(10)  # a driver that was loaded again counts from 0: that is the counter's own law
        again = source.read(7)
        assert again.gpu is not None
        assert (again.ts_ns, again.gpu.energy_mj) == (7, (10,))
        server.answers["/metrics"] = b"HTTP/1.0 500 no\r\n\r\n"
        with pytest.raises(SourceError, match="answers 500"):
            source.read(1)
        assert source.probe().present is False
        source.close()


def test_one_origin_only() -> None:
    for url, file in (("", ""), ("http://h/metrics", "x")):
        with pytest.raises(SettingsError, match="source dcgm reads one text"):
            DcgmSource(url, file=file)


def test_of_a_federated_text_only_this_hosts_gpus_are_read() -> None:
    text = "".join(f'DCGM_FI_DEV_GPU_TEMP{{gpu="0",UUID="GPU-{h}",Hostname="{h}.cluster"}} 40\n' for h in "abc")
    gpu, missing = dcgm_text.columns(prom_text.parse(text), dcgm_text.Units(), "b")
    assert gpu is not None
    assert gpu.uuid == ("GPU-b",)
    assert missing["hosts"] == "the text speaks of 3 hosts; only the GPUs of b are read"
    everybody, told = dcgm_text.columns(prom_text.parse(text), dcgm_text.Units(), "elsewhere")
    assert everybody is not None
    assert len(everybody.uuid) == 3
    assert told["hosts"] == "the text speaks of 3 hosts, none of them called elsewhere"


def test_series_that_have_ended_are_not_read_and_time_stamps_that_stand_are_no_reading() -> None:
    now, stamp = [0.0], 1_700_000_000_000

    def text(newest: int) -> bytes:
        lines = [
            f'DCGM_FI_DEV_GPU_TEMP{{gpu="0",UUID="GPU-0"}} 40 {newest}',
            f'DCGM_FI_DEV_GPU_TEMP{{UUID="GPU-1"}} 41 {stamp}',
        ]
        return ok(("\n".join(lines) + "\n").encode())

    with serving() as server:
        source = DcgmSource(f"{server.url}/federate", monotonic=lambda: now[0])
        server.answers["/federate"] = text(stamp + 121_000)
        reading = source.read(1)
        assert reading.gpu is not None
        assert reading.gpu.uuid == ("GPU-0",)
        assert dict(reading.missing)["old"].startswith("1 samples are more than 120 s older than the newest")
        now[0] = 121.0
        with pytest.raises(SourceError, match="it stands still"):
            source.read(1)
        server.answers["/federate"] = text(stamp + 122_000)
        assert source.read(1).gpu is not None


def test_a_text_that_is_far_too_long_is_cut_and_said() -> None:
    line = b'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-0"} 40\n'
    with serving() as server:
        server.answers["/metrics"] = ok(line + b"x 1\n" * 60_000)
        reading = DcgmSource(f"{server.url}/metrics").read(1)
        assert reading.gpu is not None
        assert reading.gpu.temp_c == (40.0,)
        assert "too long; the rest is unknown" in dict(reading.missing)["text"]


names = st.sampled_from([name for field in FIELDS for name in field.names])
texts = st.sampled_from(["", "0", "1", "x", "²", "GPU-0", "GPU-1", "MIG-a"])
pairs = st.dictionaries(st.sampled_from(["gpu", "UUID", "GPU_I_ID", "pod", "Hostname"]), texts, max_size=5)
odd = ["NaN", "+Inf", "-1", "9223372036854775794", "140737488355330", "2147483635", "1e308", "4000", "0.5", "1e12"]


def line(name: str, labels: dict[str, str], value: str) -> str:
    block = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{block}}} {value}\n"


lines = st.builds(line, names, pairs, st.sampled_from(odd) | st.floats(0, 1e4).map(str))


@settings(max_examples=100, deadline=None)
@given(st.lists(lines, max_size=30))
def test_whatever_a_text_holds_what_leaves_is_sound_and_in_bounds(found: list[str]) -> None:
    gpu, _ = dcgm_text.columns(prom_text.parse("".join(found)), dcgm_text.Units(), "x")
    if gpu is None:
        return
    assert sound.problem(Reading(source="dcgm", ts_ns=1, quality="measured", gpu=gpu)) is None
    for name in gpu.__struct_fields__:
        values = [v for v in getattr(gpu, name) or () if isinstance(v, int | float)]
        assert all(math.isfinite(value) for value in values)
        assert not name.endswith("_ratio") or all(0 <= value <= 1 for value in values)
        assert not name.endswith("_w") or all(0 <= value <= dcgm_fields.MAX_BOARD_W for value in values)


def test_labels_of_strangers_are_fit_for_a_terminal_and_bounded() -> None:
    text = 'DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-0",modelName="\x1b[2J\x07H100",pod="' + "p" * 5000 + '"} 40\n'
    gpu, _ = columns(text)
    assert gpu.name == ("\ufffd[2J\ufffdH100",)
    assert gpu.pod == ("p" * 253,)


def test_a_text_of_endless_gpus_is_bounded() -> None:
    text = "".join(f'DCGM_FI_DEV_GPU_TEMP{{UUID="GPU-{n}"}} 40\n' for n in range(3000))
    gpu, missing = columns(text)
    assert len(gpu.uuid) == 1024
    assert missing["gpus"] == "more than 1024 GPUs in one text; the rest is not read"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "made_exporter_3.3_mig.txt",
            {
                "uuid": ("GPU-00000000-aaaa-0000-0000-000000000000", "GPU-11111111-aaaa-0000-0000-000000000000"),
                "power_w": (181.422, 399.1),
                "energy_mj": (98_765_432_100, 12_345_678_900),
                "gr_active_ratio": (None, 0.973),
                "util_ratio": (None, 0.98),
                "pod": (None, "train-0"),
            },
        ),
        (
            "made_exporter_4.4_k8s.txt",
            {
                "uuid": ("GPU-22222222-aaaa-0000-0000-000000000000", "GPU-33333333-aaaa-0000-0000-000000000000"),
                "power_w": (612.733, 77.5),
                "energy_mj": (5_029_185_736_400, None),
                "mem_temp_c": (58.0, None),
                "throttle": (4, None),
                "namespace": ("serving", None),
                "xid": None,
            },
        ),
    ],
)
def test_made_texts_of_two_releases(name: str, expected: dict[str, Any]) -> None:
    gpu = DcgmSource(file=str(DATA / name)).read(1).gpu
    assert {column: getattr(gpu, column) for column in expected} == expected
