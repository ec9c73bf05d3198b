"""Metric families of serving engines: load, tokens, energy of their GPUs, latency quantiles of the last half minute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from prometheus_client.core import Metric

from agents.node.families import LIMIT, make
from streams.contract import histogram
from streams.contract.records import EngineReading, NodeTelemetry
from streams.observe.columns import cell

LABELS: Final = ("node", "engine", "kind", "model", "quality")
QUANTILES: Final = (("0.5", 0.5), ("0.99", 0.99))
LATENCIES: Final = {
    "eo_engine_time_to_first_token_seconds": ("ttft", "Time to the first token over the last half minute (in s)."),
    "eo_engine_time_between_tokens_seconds": ("tbt", "Time between tokens over the last half minute (in s)."),
    "eo_engine_request_duration_seconds": ("e2e", "Duration of requests over the last half minute (in s)."),
}
VALUES: Final = {
    "eo_engine_requests_running": ("running", "Requests being served."),
    "eo_engine_requests_waiting": ("waiting", "Requests that wait."),
    "eo_engine_kv_cache_use_ratio": ("kv_use_ratio", "Use of the KV cache (0 to 1)."),
    "eo_engine_generation_tokens_total": ("generation_tokens_total", "Tokens generated."),
    "eo_engine_prompt_tokens_total": ("prompt_tokens_total", "Prompt tokens taken."),
    "eo_engine_requests_total": ("requests_total", "Requests finished."),
}
CONTROL: Final = {
    "eo_engine_decode_time_ratio": ("decode_ratio", "Learned: decode time over the model's (1 = as modelled)."),
    "eo_engine_prefill_time_ratio": ("prefill_ratio", "Learned: time of a full mixed iteration over the model's."),
    "eo_engine_power_ratio": ("power_ratio", "Learned: watts of a GPU of the engine over the model's."),
    "eo_engine_time_error_ratio": ("time_error_ratio", "Mean gap over its prediction, minus 1, of the newest record."),
    "eo_engine_power_error_ratio": ("power_error_ratio", "Watts over their prediction, minus 1, of the newest record."),
    "eo_engine_missed_ratio": ("missed_ratio", "Share of the last hour's requests beyond the SLO (0 to 1)."),
    "eo_engine_chunk_tokens": ("chunk_tokens", "Chunk size that we set, where the engine takes one while it runs."),
    "eo_engine_slowdown_ratio": ("slowdown_ratio", "Upper end of a training job's slowdown against default clocks."),
    "eo_engine_first_token_slack_ratio": (
        "slack_ratio",
        "Learned: the least room of first tokens, gaps and answers; below 1 more came late than may.",
    ),
    "eo_engine_wait_price_watts": (
        "wait_price_w",
        "Learned: watts that a running sequence is counted at (0 = no bound).",
    ),
    "eo_engine_meet_ratio": ("meet_ratio", "Learned: share of the time in prefill that a token meets (1 = all)."),
    "eo_engine_saving_ratio": ("saving_ratio", "Estimated energy saving of a training job against default clocks."),
}
Recent = Sequence[Sequence[EngineReading]]


def of_engines(records: Sequence[tuple[NodeTelemetry, Recent]]) -> Iterator[Metric]:
    """Every engine of every record; `Recent` holds the engines of its node's last samples, for the quantiles."""
    rows = [(r, e, recent) for r, recent in records for e in r.engines[:LIMIT]]
    for name, (field, text) in VALUES.items():
        family = make(name, text, LABELS)
        for record, engine, _ in rows:
            value = cell((getattr(engine, field),), 0)
            if value is not None:
                family.add_metric(_labels(record, engine), float(value))
        yield family
    yield from _control(rows)
    yield _age(rows)
    yield _energy(rows)
    for name, (field, text) in LATENCIES.items():
        family = make(name, text, (*LABELS, "quantile"))
        for record, engine, recent in rows:
            for label, seconds in _quantiles(engine.engine, field, recent):
                family.add_metric((*_labels(record, engine), label), seconds)
        yield family


def _control(rows: Sequence[tuple[NodeTelemetry, EngineReading, Recent]]) -> Iterator[Metric]:
    """What the control loop has learned of each engine, and what state that puts it in."""
    for name, (field, text) in CONTROL.items():
        family = make(name, text, LABELS)
        for record, engine, _ in rows:
            value = None if engine.control is None else getattr(engine.control, field)
            if value is not None:
                family.add_metric(_labels(record, engine), float(value))
        yield family
    state = make("eo_engine_control_state", "The state that the engine's control is in, always 1.", (*LABELS, "state"))
    for record, engine, _ in rows:
        if engine.control is not None:
            state.add_metric((*_labels(record, engine), engine.control.state), 1.0)
    yield state


def _labels(record: NodeTelemetry, engine: EngineReading) -> tuple[str, ...]:
    return (record.node, engine.engine, engine.kind, engine.stack, record.quality)


def _age(rows: Sequence[tuple[NodeTelemetry, EngineReading, Recent]]) -> Metric:
    family = make("eo_engine_signal_age_seconds", "Age of the engine's numbers in the newest sample (in s).", LABELS)
    for record, engine, _ in rows:
        family.add_metric(_labels(record, engine), (record.ts_ns - engine.ts_ns) / 1e9)
    return family


def _energy(rows: Sequence[tuple[NodeTelemetry, EngineReading, Recent]]) -> Metric:
    """Energy of the engine's GPUs: by the rate of tokens it gives joules per token. One GPU unknown = no sample."""
    text = "Energy counters of the engine's GPUs, summed (in J); divide its rate by the rate of tokens."
    family = make("eo_engine_gpu_energy_joules_total", text, LABELS)
    for record, engine, _ in rows:
        gpu = record.gpu
        if gpu is None or gpu.energy_mj is None:
            continue
        known = {uuid: cell(gpu.energy_mj, i) for i, uuid in enumerate(gpu.uuid)}
        values = [v for uuid in engine.gpu_uuid if (v := known.get(uuid)) is not None]
        if values and len(values) == len(engine.gpu_uuid):
            family.add_metric(_labels(record, engine), sum(values) / 1e3)
    return family


def _quantiles(name: str, field: str, recent: Recent) -> Iterator[tuple[str, float]]:
    found = [getattr(engine, field) for engines in recent for engine in engines if engine.engine == name]
    held = [h for h in found if h is not None]
    if not held:
        return
    newest = held[-1].scale
    counts = histogram.pool(h for h in held if h.scale == newest)
    for label, q in QUANTILES:
        value = histogram.quantile(counts, q, newest)
        if value is not None:
            yield label, value / 1e3
