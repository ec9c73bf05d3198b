"""vLLM's /metrics, versions 0 and 1, and what speaks its dialect: NVIDIA NIM, Ray Serve, forks, bare names."""

from __future__ import annotations

from typing import Final

from agents.node.sources.engines.dialect import Dialect, Group, Pick, Values, mean, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource

KV_USE: Final = names("kv_cache_usage_perc", "gpu_cache_usage_perc")


def _derive(group: Group, values: Values) -> None:
    blocks, size = group.label("cache_config_info", "num_gpu_blocks"), group.label("cache_config_info", "block_size")
    fullest = values.number.get("kv_use_ratio")
    # Blocks are those of one data-parallel core; each has as many, and its own use.
    ratio = next((found for pick in KV_USE if (found := group.sum(pick)) is not None), None)
    if blocks is not None and size is not None and ratio is not None and fullest is not None and 0 <= fullest <= 1:
        values.say("kv_tokens", ratio * blocks * size)
    prompt = mean(group.sum(Pick("request_prompt_tokens_sum")), group.sum(Pick("request_prompt_tokens_count")))
    waiting_tokens(values, prompt or mean(values.number["prompt_tokens_total"], values.number["requests_total"]))


DIALECT = Dialect(
    kind="vllm",
    title="vLLM",
    prefixes=("vllm_", "ray_vllm_", "nim_", ""),
    values={
        "running": names("num_requests_running"),
        "waiting": names("num_requests_waiting"),
        "kv_use_ratio": KV_USE,
        "prompt_tokens_total": names("prompt_tokens"),
        "generation_tokens_total": names("generation_tokens"),
        "requests_total": names("request_success", "request_finish"),
        "ttft": names("time_to_first_token_seconds", factor=1e3),
        # The first counts pauses between tokens; the second is its old name; the last is one mean per request.
        "tbt": names(
            "inter_token_latency_seconds",
            "time_per_output_token_seconds",
            "request_time_per_output_token_seconds",
            factor=1e3,
        ),
        "e2e": names("e2e_request_latency_seconds", factor=1e3),
    },
    absent={
        "waiting_tokens": "requests wait and the text gives no prompt length",
        "kv_tokens": "needs KV use and cache_config_info with num_gpu_blocks and block_size",
    },
    derive=_derive,
    also=("cache_config_info", "request_prompt_tokens"),
    steady=True,
)


class VllmSource(EngineSource):
    """One vLLM server."""

    name = "vllm"
    dialect = DIALECT
    default_url = "http://127.0.0.1:8000/metrics"
