"""SGLang's /metrics (started with --enable-metrics): "sglang:x" and "sglang_x"."""

from __future__ import annotations

from agents.node.sources.engines.dialect import Dialect, Group, Pick, Values, mean, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource


def _derive(group: Group, values: Values) -> None:
    ratio, most = values.number.get("kv_use_ratio"), group.sum(Pick("max_total_num_tokens"))
    pages, size = group.label("cache_config_info", "num_pages"), group.label("cache_config_info", "page_size")
    if most is None and pages is not None and size is not None:
        most = pages * size
    if ratio is not None and 0 <= ratio <= 1 and most is not None:
        values.say("kv_tokens", ratio * most)
    prompt = mean(group.sum(Pick("prompt_tokens_histogram_sum")), group.sum(Pick("prompt_tokens_histogram_count")))
    waiting_tokens(values, prompt or mean(values.number["prompt_tokens_total"], values.number["requests_total"]))


DIALECT = Dialect(
    kind="sglang",
    title="SGLang",
    prefixes=("sglang_",),
    values={
        "running": names("num_running_reqs", "num_requests_running"),
        "waiting": names("num_queue_reqs", "num_requests_waiting"),
        "kv_tokens": names("num_used_tokens"),
        "kv_use_ratio": names("token_usage", "full_token_usage"),
        "prompt_tokens_total": names("prompt_tokens"),
        "generation_tokens_total": names("generation_tokens"),
        "requests_total": names("num_requests", "e2e_request_latency_seconds_count"),
        "ttft": names("time_to_first_token_seconds", factor=1e3),
        "tbt": names("inter_token_latency_seconds", "time_per_output_token_seconds", factor=1e3),
        "e2e": names("e2e_request_latency_seconds", factor=1e3),
    },
    absent={"waiting_tokens": "requests wait and the text gives no prompt length"},
    derive=_derive,
    also=("max_total_num_tokens", "cache_config_info", "prompt_tokens_histogram"),
)


class SglangSource(EngineSource):
    """One SGLang server."""

    name = "sglang"
    dialect = DIALECT
    default_url = "http://127.0.0.1:30000/metrics"
