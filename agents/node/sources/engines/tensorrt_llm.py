"""TensorRT-LLM by itself (trtllm-serve, Dynamo's worker) or behind Triton.

trtllm-serve has Prometheus text at /prometheus/metrics and, at /metrics, a JSON list with the statistics of each
iteration since it was last asked; the newest counts. Behind Triton the batch manager's nv_trt_llm_* are read.
"""

from __future__ import annotations

import json
from typing import Any

from agents.node.sources.engines import triton
from agents.node.sources.engines.dialect import Dialect, Group, Pick, Values, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource
from agents.node.sources.prom_text import Sample


def _derive(group: Group, values: Values) -> None:
    triton.requests(group, values)
    triton.batch_manager(group, values)
    most, size = group.sum(Pick("kv_cache_max_blocks")), group.most(Pick("kv_cache_tokens_per_block"))
    ratio = values.number.get("kv_use_ratio")
    if most is not None and size is not None and ratio is not None and 0 <= ratio <= 1:
        values.say("kv_tokens", ratio * most * size)
    waiting_tokens(values, None)


DIALECT = Dialect(
    kind="tensorrt-llm",
    title="TensorRT-LLM",
    prefixes=("trtllm_", "nv_", "tensorrt_llm_"),
    values={
        "running": (*names("num_requests_running"), *triton.RUNNING),
        "waiting": (*names("num_requests_waiting", "num_queued_requests"), triton.request("waiting")),
        "kv_use_ratio": (*names("kv_cache_utilization", "kv_cache_usage_perc"), triton.blocks("fraction")),
        "prompt_tokens_total": names("prompt_tokens"),
        "generation_tokens_total": names("generation_tokens"),
        "requests_total": names("request_success", "inference_request_success"),
        "ttft": (
            *names("time_to_first_token_seconds", factor=1e3),
            *names("inference_first_response_histogram_ms"),
        ),
        "tbt": names("inter_token_latency_seconds", "time_per_output_token_seconds", factor=1e3),
        "e2e": names("e2e_request_latency_seconds", factor=1e3),
    },
    absent={"waiting_tokens": "TensorRT-LLM does not publish prompt lengths in its queue"},
    derive=_derive,
    also=("kv_cache_max_blocks", "kv_cache_tokens_per_block", "inference_request_failure"),
    groups_by=("version",),
)

_JSON = (
    ("trtllm_num_requests_running", ("inflightBatchingStats", "numScheduledRequests")),
    ("trtllm_num_requests_running", ("numActiveRequests",)),
    ("trtllm_num_requests_waiting", ("numQueuedRequests",)),
    ("trtllm_kv_cache_max_blocks", ("kvCacheStats", "maxNumBlocks")),
    ("trtllm_kv_cache_tokens_per_block", ("kvCacheStats", "tokensPerBlock")),
)


def from_json(text: bytes) -> list[Sample] | None:
    """The newest iteration's statistics as samples; None when the text is no such JSON."""
    if text.lstrip()[:1] not in (b"[", b"{"):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    rows = found if isinstance(found, list) else [found]
    newest = next((row for row in reversed(rows) if isinstance(row, dict)), None)
    if newest is None:
        return []
    samples: dict[str, Sample] = {}
    for name, path in _JSON:
        if (value := _at(newest, path)) is not None and name not in samples:
            samples[name] = Sample(name, {}, value, "gauge")
    used, most = _at(newest, ("kvCacheStats", "usedNumBlocks")), _at(newest, ("kvCacheStats", "maxNumBlocks"))
    if used is not None and most:
        samples["ratio"] = Sample("trtllm_kv_cache_utilization", {}, used / most, "gauge")
    return list(samples.values())


def _at(row: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if is_number else None


class TensorRtLlmSource(EngineSource):
    """One TensorRT-LLM server."""

    name = "tensorrt-llm"
    dialect = DIALECT
    default_url = "http://127.0.0.1:8000/prometheus/metrics"

    def _samples(self, text: bytes) -> list[Sample]:
        found = from_json(text)
        return super()._samples(text) if found is None else found
