"""Text Generation Inference's /metrics. It has no time to first token, and serves one model, which it does not name."""

from __future__ import annotations

from agents.node.sources.engines.dialect import Dialect, Group, Pick, Values, mean, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource


def _derive(group: Group, values: Values) -> None:
    prompt = mean(group.sum(Pick("request_input_length_sum")), group.sum(Pick("request_input_length_count")))
    waiting_tokens(values, prompt)


DIALECT = Dialect(
    kind="tgi",
    title="TGI",
    prefixes=("tgi_",),
    values={
        "running": names("batch_current_size"),
        "waiting": names("queue_size"),
        "kv_tokens": names("batch_current_max_tokens"),  # what the batch may grow to: its reservation
        "prompt_tokens_total": names("request_input_length_sum"),
        "generation_tokens_total": names("request_generated_tokens_sum"),
        "requests_total": names("request_success", "request_count"),
        "tbt": names("request_mean_time_per_token_duration", factor=1e3),
        "e2e": names("request_duration", factor=1e3),
    },
    absent={
        "ttft": "TGI does not publish a time to first token",
        "kv_use_ratio": "TGI does not publish the size of its KV cache",
        "waiting_tokens": "requests wait and the text gives no prompt length",
    },
    derive=_derive,
    also=("request_input_length",),
)


class TgiSource(EngineSource):
    """One TGI router."""

    name = "tgi"
    dialect = DIALECT
    default_url = "http://127.0.0.1:8080/metrics"
