"""Engines' texts against tables checked by hand, and what other versions, several models and bad texts give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.node.errors import SettingsError, SourceError
from agents.node.sources import registry
from agents.node.sources.engines.source import EngineSource
from agents.node.sources.fetch import Text
from streams.contract.histogram import pool, quantile
from streams.contract.records import EngineReading

DATA = Path(__file__).resolve().parents[2] / "data" / "engines"
S = 1_000_000_000
NUMBERS = (
    "running",
    "waiting",
    "waiting_tokens",
    "kv_tokens",
    "kv_use_ratio",
    "prompt_tokens_total",
    "generation_tokens_total",
    "requests_total",
)


def source(kind: str, text: str | Callable[[], str] | None = None, **options: Any) -> EngineSource:
    if text is not None:
        options |= {
            "url": "http://127.0.0.1:8000/metrics",
            "get": lambda url, **_: Text(_text(text).encode(), url, 0.0),
        }
    made = registry.make(kind, options)
    assert isinstance(made, EngineSource)
    return made


def _text(text: str | Callable[[], str]) -> str:
    return text if isinstance(text, str) else text()


def engines(kind: str, text: str, **options: Any) -> list[EngineReading]:
    return list(source(kind, text, **options).read(5 * S).engines)


# Read off the recordings by eye: numbers, then (count, sum in ms) of each histogram since the engine's start.
TABLE: dict[str, tuple[str, str, tuple[float | None, ...], tuple[tuple[int, float] | None, ...]]] = {
    "vllm_metrics.txt": (
        "vllm",
        "facebook/opt-125m/vllm",
        (0, 0, 0, 0, 0.0, 5, 7, 1),
        ((1, 313.267), (144, 623.739), (1, 503.43)),
    ),
    "sglang_metrics.txt": (
        "sglang",
        "facebook/opt-125m/sglang",
        (0, 0, 0, 37, 0.25, 5, 32, 1),
        ((1, 20.0), (31, 50.0), (1, 70.0)),
    ),
    "tgi_made.txt": (
        "tgi",
        "unspecified/tgi",
        (5, 2, 200, 8200, None, 15000, 12500, 150),
        (None, (150, 2100.0), (150, 22500.0)),
    ),
    "trtllm_metrics_doc_example.txt": (
        "tensorrt-llm",
        "Qwen/Qwen3-0.6B/tensorrt-llm",
        (None, None, None, None, None, None, None, 155),
        ((150, 8750.0), (150, 12500.0), (150, 45200.0)),
    ),
    "made_vllm_0.6.txt": (
        "vllm",
        "meta-llama/Llama-3.1-8B-Instruct/vllm",
        (12, 3, 1200, 54_000, 0.125, 40_000, 9000, 100),
        ((100, 8000.0), (8900, 178_000.0), (100, 186_000.0)),
    ),
    "made_vllm_0.11_dp2.txt": (
        "vllm",
        "Qwen/Qwen3-30B-A3B/vllm",
        (13, 2, 2000, 120_000, 0.5, 100_000, 5000, 100),
        ((100, 8000.0), (4900, 100_000.0), (100, 108_000.0)),
    ),
    "made_sglang_0.5_tp2_dp2.txt": (
        "sglang",
        "deepseek-ai/DeepSeek-V3/sglang",
        (70, 4, 8000, 105_000, 0.6, 500_000, 70_000, 250),
        ((250, 100_000.0), (69_750, 1_400_000.0), (250, 1_500_000.0)),
    ),
    "made_tgi_3.txt": (
        "tgi",
        "unspecified/tgi",
        (7, 0, 0, 15_872, None, 52_000, 30_000, 200),
        (None, (200, 3400.0), (200, 520_000.0)),
    ),
    "made_trtllm_1.2.txt": (
        "tensorrt-llm",
        "undefined/tensorrt-llm",
        (None, None, None, None, 0.375, None, None, 24),
        ((24, 1200.0), (24, 240.0), (24, 36_000.0)),
    ),
    "made_triton_trtllm.txt": (
        "tensorrt-llm",
        "tensorrt_llm:1/tensorrt-llm",
        (6, 2, None, 64_000, 0.25, None, None, 93),
        ((90, 9000.0), None, None),
    ),
}


@pytest.mark.parametrize("name", TABLE)
def test_recordings_read_as_the_table_says(name: str) -> None:
    kind, stack, numbers, histograms = TABLE[name]
    reading = source(kind, file=str(DATA / name), since_start=True).read(5 * S)
    (engine,) = reading.engines
    assert (engine.kind, engine.stack, engine.ts_ns) == (kind, stack, 5 * S)
    assert tuple(getattr(engine, field) for field in NUMBERS) == numbers
    for field, expected in zip(("ttft", "tbt", "e2e"), histograms, strict=True):
        found = getattr(engine, field)
        assert (None if found is None else (sum(found.count), found.sum_ms)) == expected, field
    unknown = {f for f in (*NUMBERS, "ttft", "tbt", "e2e") if getattr(engine, f) is None}
    assert {part.rpartition(".")[2] for part, _ in reading.missing} == unknown


def test_tensorrt_llm_reads_the_same_by_itself_and_through_triton() -> None:
    path = str(DATA / "made_triton_trtllm.txt")
    by_triton, by_itself = (source(kind, file=path).read(S).engines[0] for kind in ("triton", "tensorrt-llm"))
    assert [getattr(by_triton, name) for name in NUMBERS] == [getattr(by_itself, name) for name in NUMBERS]


def test_triton_gives_an_engine_per_model_and_version() -> None:
    reading = source("triton", file=str(DATA / "triton_metrics.txt")).read(5 * S)
    assert len(reading.engines) == 8
    by_stack = {engine.stack: engine for engine in reading.engines}
    busy = by_stack["densenet_onnx:1/triton"]
    assert (busy.waiting, busy.requests_total, busy.running, busy.e2e) == (0, 3, None, None)
    assert busy.gpu_uuid == ("GPU-951eeeeb-d284-d263-688e-d98a5306389b",)
    assert len({engine.engine for engine in reading.engines}) == 8


def test_old_and_new_names_of_vllm() -> None:
    labels = 'model_name="m",engine="0"'
    new = f"vllm:kv_cache_usage_perc{{{labels}}} 0.5\nvllm:num_requests_running{{{labels}}} 3\n"
    old = 'vllm:gpu_cache_usage_perc{model_name="m"} 0.25\nvllm:num_requests_running{model_name="m"} 2\n'
    for text, ratio, running in ((new, 0.5, 3), (old, 0.25, 2), (old + new, 0.5, 5)):
        (engine,) = engines("vllm", text)
        assert (engine.kv_use_ratio, engine.running) == (ratio, running)


@pytest.mark.parametrize("spelling", ["vllm:{}", "vllm_{}", "ray_vllm:{}", "{}"])
def test_prefixes_and_separators(spelling: str) -> None:
    text = "".join(
        f'{spelling.format(name)}{{model_name="m"}} 4\n' for name in ("num_requests_running", "prompt_tokens_total")
    )
    (engine,) = engines("vllm", text)
    assert (engine.running, engine.prompt_tokens_total) == (4, 4)


def test_tokens_in_the_cache_come_from_blocks_and_tokens_in_the_queue_from_the_mean_prompt() -> None:
    text = (
        'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",engine="0"} 1\n'
        'vllm:kv_cache_usage_perc{model_name="m",engine="0"} 0.5\n'
        'vllm:num_requests_running{model_name="m",engine="0"} 3\n'
        'vllm:num_requests_waiting{model_name="m",engine="0"} 4\n'
        'vllm:request_prompt_tokens_sum{model_name="m",engine="0"} 1001\n'
        'vllm:request_prompt_tokens_count{model_name="m",engine="0"} 10\n'
    )
    (engine,) = engines("vllm", text)
    assert (engine.kv_tokens, engine.waiting_tokens) == (8000, 401)


def test_models_stand_apart_and_data_parallel_cores_are_one_engine() -> None:
    text = "".join(
        f'vllm:num_requests_running{{model_name="{model}",engine="{rank}"}} {load}\n'
        for model, rank, load in (("a", 0, 1), ("a", 1, 2), ("a", 10, 4), ("b", 0, 3))
    )
    found = {engine.engine: engine.running for engine in engines("vllm", text, name="e")}
    assert found == {"e/a": 7, "e/b": 3}


def test_cores_add_up_their_tokens_and_the_fullest_cache_is_told() -> None:
    text = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000",engine="0"} 1\n' + "".join(
        f'vllm:kv_cache_usage_perc{{model_name="m",engine="{core}"}} {use}\n'
        f'vllm:generation_tokens_total{{model_name="m",engine="{core}"}} {tokens}\n'
        f'vllm:time_to_first_token_seconds_bucket{{model_name="m",engine="{core}",le="0.5"}} 1\n'
        f'vllm:time_to_first_token_seconds_bucket{{model_name="m",engine="{core}",le="+Inf"}} 2\n'
        for core, use, tokens in ((0, 0.5, 100), (1, 0.25, 50))
    )
    (engine,) = engines("vllm", text, since_start=True)
    assert (engine.kv_use_ratio, engine.kv_tokens, engine.generation_tokens_total) == (0.5, 12_000, 150)
    assert engine.ttft is not None
    assert sum(engine.ttft.count) == 4


def test_one_core_that_stands_still_makes_the_engine_old() -> None:
    def text(first: int, second: int) -> str:
        return "".join(
            f'vllm:num_requests_running{{model_name="m",engine="{core}"}} 1\n'
            f'vllm:generation_tokens_total{{model_name="m",engine="{core}"}} {tokens}\n'
            for core, tokens in ((0, first), (1, second))
        )

    texts = iter([text(10, 10), text(20, 10), text(30, 20)])
    made = source("vllm", lambda: next(texts))
    ages = [made.read(n * S).engines[0].ts_ns // S for n in (1, 2, 3)]
    assert ages == [1, 1, 3]


def test_servers_of_a_federated_text_stand_apart() -> None:
    text = "".join(f'vllm:num_requests_running{{model_name="a",engine="0",instance="h{n}:8000"}} {n}\n' for n in (1, 2))
    found = {engine.engine: engine.running for engine in engines("vllm", text, name="e")}
    assert found == {"e/a/rankh1:8000": 1, "e/a/rankh2:8000": 2}


def test_ranks_that_only_some_series_name_are_added_up() -> None:
    text = (
        'sglang:num_running_reqs{model_name="m",dp_rank="0",tp_rank="0"} 1\n'
        'sglang:num_running_reqs{model_name="m",dp_rank="0",tp_rank="1"} 1\n'
        'sglang:num_running_reqs{model_name="m",dp_rank="1",tp_rank="0"} 2\n'
        'sglang:generation_tokens_total{model_name="m"} 70\n'
    )
    (engine,) = engines("sglang", text)
    assert (engine.running, engine.generation_tokens_total) == (3, 70)


def test_triton_with_the_batch_manager_of_tensorrt_llm() -> None:
    rows = {"waiting": 2, "scheduled": 3, "active": 5, "max": 512, "context": 1}
    blocks = {"used": 110, "free": 90, "max": 200, "tokens_per": 64, "fraction": 0.55}
    text = "".join(
        f'nv_trt_llm_request_metrics{{model="t",version="1",request_type="{k}"}} {v}\n' for k, v in rows.items()
    )
    text += "".join(
        f'nv_trt_llm_kv_cache_block_metrics{{model="t",version="1",kv_cache_block_type="{k}"}} {v}\n'
        for k, v in blocks.items()
    )
    text += 'nv_llm_output_token_len_sum{model="t",version="1",response_metric_type="total_output_tokens"} 900\n'
    for kind in ("triton", "tensorrt-llm"):
        (engine,) = engines(kind, text)
        assert (engine.running, engine.waiting, engine.kv_use_ratio, engine.kv_tokens) == (3, 2, 0.55, 7040), kind
    assert engines("triton", text)[0].generation_tokens_total == 900
    older = text.replace('request_type="waiting"', 'request_type="unknown"')
    assert engines("triton", older)[0].waiting == 2


def test_triton_without_gauges_gives_mean_requests_by_durations() -> None:
    def text(count: int, busy_us: int, queued_us: int) -> str:
        rows = {"request_success": count, "compute_infer_duration_us": busy_us, "queue_duration_us": queued_us}
        return "".join(f'nv_inference_{name}{{model="m",version="1"}} {value}\n' for name, value in rows.items())

    texts = iter([text(0, 0, 0), text(10, 2_400_000, 100_000)])
    made = source("triton", lambda: next(texts))
    first, second = made.read(5 * S).engines[0], made.read(6 * S).engines[0]
    assert (first.running, first.waiting) == (None, None)
    assert (second.running, second.waiting) == (3, 1)


def test_trtllm_serve_answers_json_with_iterations() -> None:
    text = (
        '[{"iter": 1, "numActiveRequests": 99}, {"iter": 2, "numActiveRequests": 4, "numQueuedRequests": 1,'
        ' "inflightBatchingStats": {"numScheduledRequests": 3},'
        ' "kvCacheStats": {"usedNumBlocks": 25, "maxNumBlocks": 100, "tokensPerBlock": 32}}]'
    )
    (engine,) = engines("tensorrt-llm", text)
    assert (engine.running, engine.waiting, engine.kv_use_ratio, engine.kv_tokens) == (3, 1, 0.25, 800)
    for bad in ("[]", '["x"]', "[1, 2]", "{}", '[{"kvCacheStats": 5}]', "[" * 100_000):
        with pytest.raises(SourceError, match="no metrics of TensorRT-LLM"):
            engines("tensorrt-llm", bad)


def test_onnxruntime_in_our_own_text() -> None:
    text = (
        'eo_onnxruntime_requests_running{model="m"} 3\neo_onnxruntime_requests_waiting{model="m"} 0\n'
        'eo_onnxruntime_requests_total{model="m"} 120\n'
        'eo_onnxruntime_request_duration_seconds_bucket{model="m",le="0.01"} 100\n'
        'eo_onnxruntime_request_duration_seconds_bucket{model="m",le="+Inf"} 120\n'
    )
    (engine,) = engines("onnxruntime", text, since_start=True)
    assert (engine.running, engine.waiting, engine.requests_total, engine.waiting_tokens) == (3, 0, 120, 0)
    assert engine.e2e is not None
    assert sum(engine.e2e.count) == 120


# --- time ------------------------------------------------------------------------------------------------------------


def _vllm(running: int, tokens: int, extra: str = "") -> str:
    return (
        f'vllm:num_requests_running{{model_name="m"}} {running}\n'
        f'vllm:generation_tokens_total{{model_name="m"}} {tokens}\n{extra}'
    )


def test_histograms_count_between_readings_and_the_first_has_none() -> None:
    def text(low: int, high: int) -> str:
        row = 'vllm:inter_token_latency_seconds_bucket{le="%s",model_name="m"} %d\n'
        return _vllm(1, high, row % ("0.05", low) + row % ("0.1", high) + row % ("+Inf", high))

    texts = iter([text(1000, 1000), text(1000, 1010), text(3, 3)])
    made = source("vllm", lambda: next(texts))
    first, second, restarted = (made.read(n * S) for n in (1, 2, 3))
    assert first.engines[0].tbt is None
    assert (
        "engines[vllm@127.0.0.1:8000].tbt",
        "counts since the reading before, and this is the first one or the same answer again",
    ) in first.missing
    tbt = second.engines[0].tbt
    assert tbt is not None
    assert sum(tbt.count) == 10
    assert quantile(pool([tbt]), 0.99) == pytest.approx(100, rel=0.02)
    again = restarted.engines[0].tbt
    assert again is not None
    assert sum(again.count) == 3


def test_a_busy_engine_whose_counters_stand_is_as_old_as_their_last_movement() -> None:
    texts = iter([_vllm(2, 10), _vllm(2, 20), _vllm(2, 20), _vllm(2, 20), _vllm(2, 21)])
    made = source("vllm", lambda: next(texts))
    assert [made.read(n * S).engines[0].ts_ns // S for n in (1, 2, 3, 4, 5)] == [1, 2, 2, 2, 5]


def test_an_idle_engine_is_not_stuck() -> None:
    made = source("vllm", _vllm(0, 10))
    assert [made.read(n * S).engines[0].ts_ns // S for n in (1, 2, 30)] == [1, 2, 30]


def test_the_engines_own_stamp_counts_where_it_is_older() -> None:
    old = 'vllm:num_requests_running{model_name="m"} 1 2000\n'
    ahead = 'vllm:num_requests_running{model_name="m"} 1 99000000\n'
    assert engines("vllm", old)[0].ts_ns == 2 * S
    assert engines("vllm", ahead)[0].ts_ns == 5 * S


# --- what is wrong ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vllm", "triton", "tensorrt-llm", "sglang", "tgi", "onnxruntime"])
@pytest.mark.parametrize("text", ["", "<html>no</html>", "\x00\xff", "# only\n", "up 1\n", "{" * 5000])
def test_a_text_of_something_else_is_one_sentence(kind: str, text: str) -> None:
    with pytest.raises(SourceError, match=r"has no metrics of .* among \d samples; is it the metrics address of a"):
        engines(kind, text)


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf", "1e300", "abc"])
def test_values_that_cannot_be_are_unknown_and_named(value: str) -> None:
    text = f'vllm:num_requests_running{{model_name="m"}} {value}\nvllm:num_requests_waiting{{model_name="m"}} 1\n'
    reading = source("vllm", text).read(S)
    assert reading.engines[0].running is None
    assert any(part.endswith(".running") for part, _ in reading.missing)


def test_a_share_above_one_is_refused_not_guessed() -> None:
    reading = source("vllm", 'vllm:kv_cache_usage_perc{model_name="m"} 55\n').read(S)
    assert reading.engines[0].kv_use_ratio is None
    reasons = dict(reading.missing)
    assert "above 1" in reasons["engines[vllm@127.0.0.1:8000].kv_use_ratio"]


def test_malformed_lines_are_told_and_the_rest_is_read() -> None:
    reading = source("vllm", _vllm(3, 5) + "vllm:num_requests_running{ 5\n").read(S)
    assert reading.engines[0].running == 3
    assert "1 lines are no samples" in dict(reading.missing)["text"]


def test_more_engines_than_any_server_has_are_cut() -> None:
    text = "".join(f'vllm:num_requests_running{{model_name="m{n}"}} 1\n' for n in range(2000))
    assert len(engines("vllm", text)) == 256


@pytest.mark.parametrize(
    "junk",
    [
        "\n" * 3_000_000,
        "x 1\n" * 500_000,
        "vllm:num_requests_running 1\n" * 120_000,
        'a{b="' * 500_000,
        "9" * 3_000_000,
    ],
)
def test_a_hostile_text_is_cut_and_told(junk: str) -> None:
    made = source("vllm", _vllm(3, 5) + junk)
    reading = made.read(S)
    assert reading.engines[0].generation_tokens_total == 5
    assert "text" in dict(reading.missing)


def test_a_source_has_one_origin() -> None:
    with pytest.raises(SettingsError, match="source vllm has one origin: give url or file, not both"):
        source("vllm", url="http://h/metrics", file="x")
    with pytest.raises(SettingsError, match="'ftp://h' is no URL that can be asked"):
        source("vllm", url="ftp://h")


def test_a_recording_that_is_not_there() -> None:
    probe = source("vllm", file="/nowhere/x.txt").probe()
    assert (probe.present, probe.reason) == (
        False,
        "/nowhere/x.txt cannot be read (No such file or directory); check the path",
    )
