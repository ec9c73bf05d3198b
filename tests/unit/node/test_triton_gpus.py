"""The GPUs in Triton's own text: values and units, what disagrees, what cannot be, and where they are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.cli.main import main
from agents.node.sources import prom_text, registry
from agents.node.sources.engines.triton_gpus import columns
from agents.node.sources.fetch import Text
from streams.contract.records import GpuColumns

DATA = Path(__file__).resolve().parents[2] / "data" / "engines" / "triton_metrics.txt"
UUID = "GPU-951eeeeb-d284-d263-688e-d98a5306389b"


def found(*lines: str) -> tuple[GpuColumns | None, dict[str, str]]:
    return columns(prom_text.parse("".join(f"{line}\n" for line in lines).encode()))


def gpu(*lines: str) -> GpuColumns:
    made, _ = found(*lines)
    assert made is not None
    return made


def test_the_recorded_text_has_one_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["read", "triton", "--file", str(DATA), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (row,) = record["gpus"]
    assert row["uuid"] == UUID
    assert (row["power_w"], row["limit_w"], row["energy_mj"]) == (32.09, 70.0, 4_879_631_328)
    assert (row["util_ratio"], row["mem_used_mb"], row["mem_total_mb"]) == (0.0, 266.338304, pytest.approx(16106.12736))
    assert {"gpu.power", "gpu.energy", "gpu.limit"} <= set(record["capability"])


def test_a_server_without_a_model_still_shows_its_gpus() -> None:
    text = f'nv_gpu_power_usage{{gpu_uuid="{UUID}"}} 60\n'
    options = {"url": "http://127.0.0.1:8002/metrics", "get": lambda url, **_: Text(text.encode(), url, 0.0)}
    reading = registry.make("triton", options).read(1)
    assert reading.engines == ()
    assert reading.gpu is not None
    assert reading.gpu.power_w == (60.0,)


def test_milliwatts_under_the_name_of_watts_are_converted_and_told() -> None:
    for lines in (
        [f'nv_gpu_power_usage{{gpu_uuid="G{n}"}} {310_500 + n}' for n in range(2)],  # nothing draws 300 kW
        ['nv_gpu_power_usage{gpu_uuid="G0"} 3105', 'nv_gpu_power_limit{gpu_uuid="G0"} 400'],  # nor 8 times its limit
    ):
        made, missing = found(*lines)
        assert made is not None
        assert made.power_w is not None
        assert made.power_w[0] in (pytest.approx(310.5), pytest.approx(3.105))
        assert missing["gpus.power_w"].startswith("warning: ")


def test_values_that_cannot_be_are_unknown_with_their_reason() -> None:
    made, missing = found(
        'nv_gpu_power_usage{gpu_uuid="G0"} -5',
        'nv_gpu_power_usage{gpu_uuid="G1"} 55',
        'nv_gpu_utilization{gpu_uuid="G0"} 0.5',
        'nv_energy_consumption{gpu_uuid="G1"} NaN',
    )
    assert made is not None
    assert (made.power_w, made.energy_mj, made.util_ratio) == ((None, 55.0), None, (0.5, None))
    assert missing["gpus[G0].power_w"] == "-5 is no plausible value of nv_gpu_power_usage"
    assert missing["gpus.energy_mj"] == "the text has no usable value of nv_energy_consumption"
    assert missing["gpus[G1].util_ratio"] == "the text gives it for other GPUs only"


def test_use_in_per_cent_is_read_as_such_and_told() -> None:
    made, missing = found('nv_gpu_utilization{gpu_uuid="G0"} 85', 'nv_gpu_utilization{gpu_uuid="G1"} 1')
    assert made is not None
    assert made.util_ratio == (0.85, 0.01)
    assert "per cent" in missing["gpus.util_ratio"]


def test_series_of_one_gpu_that_disagree_are_no_value() -> None:
    made, missing = found(
        'nv_gpu_power_usage{gpu_uuid="G0",instance="a"} 50',
        'nv_gpu_power_usage{gpu_uuid="G0",instance="b"} 70',
        'nv_gpu_power_limit{gpu_uuid="G0"} 100',
    )
    assert made is not None
    assert (made.power_w, made.limit_w) == (None, (100.0,))
    assert missing["gpus[G0].power_w"] == "2 series of this GPU disagree (50 to 70)"


def test_a_text_without_a_gpu_has_none_and_a_flood_of_them_is_cut() -> None:
    assert found('nv_inference_request_success{model="m",version="1"} 3') == (None, {})
    assert found("nv_gpu_power_usage 50") == (None, {})
    assert len(gpu(*(f'nv_gpu_power_usage{{gpu_uuid="G{n}"}} 50' for n in range(500))).uuid) == 64
