"""ONNX Runtime as this project serves it: a small text of our own, since the library itself has no endpoint.

Any process that serves a session can write it. Label `model`; all but the first two lines may be left out:

    eo_onnxruntime_requests_running{model="m"} 3
    eo_onnxruntime_requests_waiting{model="m"} 0
    eo_onnxruntime_requests_total{model="m"} 120
    eo_onnxruntime_request_duration_seconds_bucket{model="m",le="0.01"} 100     ... _sum, _count
    eo_onnxruntime_input_tokens_total, eo_onnxruntime_output_tokens_total       where the model has tokens
    eo_onnxruntime_time_to_first_token_seconds, eo_onnxruntime_inter_token_latency_seconds    histograms
"""

from __future__ import annotations

from agents.node.sources.engines.dialect import Dialect, Group, Values, mean, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource


def _derive(group: Group, values: Values) -> None:
    waiting_tokens(values, mean(values.number["prompt_tokens_total"], values.number["requests_total"]))


DIALECT = Dialect(
    kind="onnxruntime",
    title="ONNX Runtime",
    prefixes=("eo_onnxruntime_",),
    values={
        "running": names("requests_running"),
        "waiting": names("requests_waiting"),
        "kv_tokens": names("kv_tokens"),
        "kv_use_ratio": names("kv_use_ratio"),
        "prompt_tokens_total": names("input_tokens"),
        "generation_tokens_total": names("output_tokens"),
        "requests_total": names("requests"),
        "ttft": names("time_to_first_token_seconds", factor=1e3),
        "tbt": names("inter_token_latency_seconds", factor=1e3),
        "e2e": names("request_duration_seconds", factor=1e3),
    },
    absent={"waiting_tokens": "requests wait and the text gives no prompt length"},
    derive=_derive,
)


class OnnxRuntimeSource(EngineSource):
    """One process that serves ONNX Runtime sessions."""

    name = "onnxruntime"
    dialect = DIALECT
    default_url = "http://127.0.0.1:9470/metrics"
