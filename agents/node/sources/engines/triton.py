"""Triton's /metrics: every model and version is an engine; with the TensorRT-LLM backend also its batch manager.

Triton gives sums of durations, not histograms (but for the first response of a decoupled model). From sums only means
follow: by Little's law the mean number of requests in computation and in the queue. A tail is not made up from a mean,
nor from its summaries, which speak of a sliding window: `e2e` stays null.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from agents.node.sources.engines import triton_gpus
from agents.node.sources.engines.dialect import Dialect, Group, Names, Pick, Values, names, waiting_tokens
from agents.node.sources.engines.source import EngineSource
from agents.node.sources.prom_text import Sample
from streams.contract.records import GpuColumns

BLOCKS: Final = "trt_llm_kv_cache_block_metrics"


def request(kind: str) -> Pick:
    """One of the batch manager's counts of requests."""
    return Pick("trt_llm_request_metrics", {"request_type": kind})


def blocks(kind: str) -> Pick:
    """One of the batch manager's counts of KV blocks."""
    return Pick(BLOCKS, {"kv_cache_block_type": kind})


def batch_manager(group: Group, values: Values) -> None:
    """KV use and tokens from blocks; waiting from what is active and not scheduled, where it is not given."""
    used, most, free = (group.sum(blocks(kind)) for kind in ("used", "max", "free"))
    if most is None and used is not None and free is not None:
        most = used + free
    if used is not None and most:
        values.say("kv_use_ratio", used / most)
    size = group.most(blocks("tokens_per"))
    if used is not None and size is not None:
        values.say("kv_tokens", used * size)
    active, scheduled = group.sum(request("active")), group.sum(request("scheduled"))
    if active is not None and scheduled is not None and "waiting" in values.missing:
        values.say("waiting", max(0.0, active - scheduled))
    waiting_tokens(values, None)


def requests(group: Group, values: Values) -> None:
    """Requests that are over, failed ones too."""
    success = group.sum(Pick("inference_request_success"))
    failure = group.sum(Pick("inference_request_failure"))
    if success is not None:
        values.number["requests_total"] = success + (failure or 0.0)


def _derive(group: Group, values: Values) -> None:
    requests(group, values)
    batch_manager(group, values)
    values.gpu_uuid = group.values_of("gpu_power_usage", "gpu_uuid") or group.values_of("gpu_utilization", "gpu_uuid")
    parts = [group.sum(Pick(f"inference_compute_{part}_duration_us")) for part in ("input", "infer", "output")]
    if any(part is not None for part in parts):
        values.number["busy_us_total"] = sum(part or 0.0 for part in parts)
    values.number["queued_us_total"] = group.sum(Pick("inference_queue_duration_us"))


RUNNING: Names = (request("scheduled"), request("active"))
WAITING: Names = (request("waiting"), *names("inference_pending_request_count"))

DIALECT = Dialect(
    kind="triton",
    title="Triton",
    prefixes=("nv_",),
    values={
        "running": RUNNING,
        "waiting": WAITING,
        "kv_use_ratio": (blocks("fraction"),),
        "prompt_tokens_total": (
            Pick("llm_input_token_len", {"response_metric_type": "total_input_tokens"}),
            *names("llm_input_token_len_sum"),
        ),
        "generation_tokens_total": (
            Pick("llm_output_token_len", {"response_metric_type": "total_output_tokens"}),
            *names("llm_output_token_len_sum"),
        ),
        "requests_total": names("inference_request_success"),
        "ttft": names("inference_first_response_histogram_ms"),
    },
    absent={
        "running": "Triton publishes durations only: from the second reading on it is their mean by Little's law",
        "tbt": "Triton does not publish times between tokens",
        "e2e": "Triton publishes a sum of durations, from which no tail follows",
        "waiting_tokens": "Triton does not publish prompt lengths in its queue",
    },
    derive=_derive,
    also=(
        "inference_request_failure",
        "inference_queue_duration_us",
        "inference_compute_input_duration_us",
        "inference_compute_infer_duration_us",
        "inference_compute_output_duration_us",
        *triton_gpus.NAMES,
    ),
    groups_by=("version",),
)


class TritonSource(EngineSource):
    """One Triton server."""

    name = "triton"
    dialect = DIALECT
    default_url = "http://127.0.0.1:8002/metrics"

    def _gpus(self, samples: Sequence[Sample]) -> tuple[GpuColumns | None, dict[str, str]]:
        return triton_gpus.columns(samples)
