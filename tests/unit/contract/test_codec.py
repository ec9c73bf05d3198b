"""The codec: what it refuses and in which words, columns of equal length, headers."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.contract import codec
from streams.contract import records as r
from streams.contract.errors import ContractError
from streams.contract.topics import DLQ, TOPICS, topic_of

BASE: dict[str, Any] = {
    "cluster": "c",
    "node": "n",
    "boot_id": "b",
    "seq": 1,
    "ts_ns": 1_767_225_600_123_456_789,
    "source": ["nvml"],
    "quality": "measured",
}


def telemetry(**changes: Any) -> bytes:
    return msgspec.json.encode(BASE | changes)


def engine(**changes: Any) -> dict[str, Any]:
    return {"engine": "e", "kind": "k", "stack": "s", "workload": "w", "gpu_uuid": [], "ts_ns": 1} | changes


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (None, "the value is empty"),
        (b"", "DecodeError"),
        (b"[]", "Expected `object`, got `array`"),
        (b"{}", "missing required field `cluster`"),
        (telemetry(quality="guessed"), "Invalid enum value 'guessed'"),
        (telemetry(node=None), "Expected `str`, got `null`"),
        (telemetry()[:-1], "truncated"),
        (b'{"a":' * 50_000, "RecursionError"),
        (telemetry().replace(b'"n"', b'"\xff"'), "UnicodeDecodeError"),
        (telemetry().replace(b'"seq":1', b'"seq":NaN'), "malformed"),
        (telemetry().replace(b'"seq":1', b'"seq":9223372036854775808'), "<= 9223372036854775807"),
        (telemetry().replace(b'"seq":1', b'"seq":' + b"9" * 5000), "out of range"),
        (telemetry(gpu={"uuid": ["a", "b"], "power_w": [1.0]}), "column power_w has 1 values for 2 GPUs"),
        (telemetry(gpu={"uuid": ["a", "a"]}), "named twice"),
        (telemetry(engines=[engine(tbt={"index": [1], "count": []})]), "tbt of engine 'e' has 1 indices and 0 counts"),
        (telemetry(engines=[engine(tbt={"index": [1], "count": [-1]})]), ">= 0"),
        (telemetry(engines=[engine(tbt={"scale": -1})]), ">= 0"),
        (telemetry(host={"cgroup": {"path": ["/a"], "cpu_us": []}}), "host.cgroup has 1 paths and 0 values"),
    ],
)
def test_what_does_not_keep_the_contract_is_refused_with_its_reason(payload: bytes | None, words: str) -> None:
    with pytest.raises(ContractError) as caught:
        codec.decode(r.NodeTelemetry, payload)
    assert words in str(caught.value)
    assert str(caught.value).startswith("NodeTelemetry: ")


def test_columns_of_features_are_checked_by_their_names() -> None:
    features = r.NodeFeatures(
        cluster="c",
        node="n",
        boot_id="b",
        seq=1,
        window_end_ns=1,
        emitted_ns=1,
        quality="simulated",
        uuid=("a",),
        features={"power_w_mean_60s": (1.0, 2.0)},
    )
    with pytest.raises(ContractError, match="column power_w_mean_60s has 2 values for 1 GPUs"):
        codec.decode(r.NodeFeatures, codec.encode(features))


def test_unknown_is_null_on_the_wire() -> None:
    columns = r.GpuColumns(uuid=("a", "b"), power_w=(float("nan"), float("inf")))
    record = codec.decode(r.NodeTelemetry, telemetry(gpu=msgspec.to_builtins(columns)))
    assert record.gpu is not None
    assert record.gpu.power_w == (None, None)


def test_telemetry_carries_no_cloud_events() -> None:
    record = codec.decode(r.NodeTelemetry, telemetry())
    assert codec.headers(record, source="node/n") == [("content-type", b"application/json"), ("schema", b"1")]


def intent() -> r.OperatorIntent:
    return r.OperatorIntent(
        cluster="c",
        scope="cluster",
        intent_id="i",
        ts_ns=1_767_225_600_123_456_789,
        actor="alice",
        kind="pause",
        reason="maintenance",
    )


def test_low_rate_records_carry_cloud_events_and_the_time_of_the_event() -> None:
    headers = dict(codec.headers(intent(), source="cli", traceparent="00-a-b-01", event_id="i"))
    assert headers["ce_id"] == b"i"
    assert headers["ce_type"] == b"energy.operator.intent.v1"
    assert headers["ce_source"] == b"/energy/cli"
    assert headers["ce_time"] == b"2026-01-01T00:00:00.123456Z"
    assert headers["traceparent"] == b"00-a-b-01"


def test_every_event_has_its_own_id() -> None:
    ids = {dict(codec.headers(intent(), source="cli"))["ce_id"] for _ in range(100)}
    assert len(ids) == 100


def test_a_command_is_dated_by_its_issue() -> None:
    columns = r.EnvelopeColumns(uuid=(), min_sm_mhz=(), max_sm_mhz=(), max_power_w=(), engine=(), holdout=(), reason=())
    command = r.PowerDesired(
        cluster="c",
        node="n",
        epoch=1,
        seq=1,
        issued_at_ns=1_767_225_600_000_000_000,
        sample_ts_ns=0,
        ttl_ms=15_000,
        on_expiry="restore",
        mode="on",
        strategy="balanced",
        policy_version="1",
        gpu=columns,
        reason="r",
    )
    assert dict(codec.headers(command, source="actuation"))["ce_time"] == b"2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("topic", [topic for topic in TOPICS if topic.record is not None], ids=lambda t: t.name)
def test_each_topic_knows_its_record_and_each_record_its_topic(topic: Any) -> None:
    assert codec.record_type(topic.name) is topic.record
    assert topic_of(topic.record) is topic


@pytest.mark.parametrize("name", [DLQ.name, "energy.unknown.v1"])
def test_a_topic_without_record_is_refused(name: str) -> None:
    with pytest.raises(ContractError, match=name):
        codec.record_type(name)


def test_a_part_of_a_record_has_no_topic() -> None:
    with pytest.raises(KeyError, match="GpuColumns is a part of a record"):
        topic_of(r.GpuColumns)
