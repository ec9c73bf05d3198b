"""Topic names, records as text and JSON, dead letters: what a human sees of the bytes."""

from __future__ import annotations

import pytest

from agents.cli.base import USAGE, EoError
from agents.cli.dlq import Letter
from agents.cli.kafka_read import Message
from agents.cli.kafka_text import as_text, as_value
from agents.cli.main import main
from agents.cli.topic_admin import Change, _compare
from agents.cli.topics import full_name
from streams.contract.codec import encode
from streams.contract.dlq import DeadLetter
from streams.contract.records import EngineReading, GpuColumns, NodeTelemetry
from streams.contract.topics import BY_NAME, DESIRED, DLQ, TELEMETRY

SAMPLE = NodeTelemetry(
    cluster="c",
    node="n1",
    boot_id="b",
    seq=7,
    ts_ns=1,
    source=("nvml",),
    quality="measured",
    gpu=GpuColumns(uuid=("GPU-0", "GPU-1"), power_w=(301.5, None), sm_mhz=(1980, 1755)),
    engines=(EngineReading(engine="e", kind="vllm", stack="s", workload="w", gpu_uuid=("GPU-0",), ts_ns=1, running=3),),
)


def _message(value: bytes | None, topic: str = TELEMETRY.name, headers: tuple[tuple[str, bytes], ...] = ()) -> Message:
    return Message(topic, 2, 17, 1_700_000_000_123, b"n1", value, headers)


def test_names_long_and_short() -> None:
    assert full_name("telemetry.node") == full_name(TELEMETRY.name) == TELEMETRY.name
    assert {full_name(name.removeprefix("energy.").rpartition(".v")[0]) for name in BY_NAME} == set(BY_NAME)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("telemetri.node", "did you mean telemetry.node?"), (None, "name a topic:"), ("zzz", "one of alert")],
)
def test_a_wrong_name_gets_the_nearest(name: str | None, hint: str) -> None:
    with pytest.raises(EoError) as told:
        full_name(name)
    assert told.value.code == USAGE
    assert hint in str(told.value)


def test_a_record_for_the_eye_leaves_unknown_out() -> None:
    assert as_text(_message(encode(SAMPLE))).splitlines() == [
        "2023-11-14 22:13:20.123  p2@17  n1  NodeTelemetry",
        "  cluster=c node=n1 boot_id=b seq=7 ts_ns=1 quality=measured schema=1",
        "  source: nvml",
        "  gpu:",
        "    uuid: GPU-0 GPU-1",
        "    power_w: 301.5 -",
        "    sm_mhz: 1980 1755",
        "  engines[0]:",
        "    engine=e kind=vllm stack=s workload=w ts_ns=1 running=3",
        "    gpu_uuid: GPU-0",
    ]


def test_a_record_as_values() -> None:
    value = as_value(_message(encode(SAMPLE)))
    assert (value["partition"], value["offset"], value["key"]) == (2, 17, "n1")
    record = value["record"]
    assert isinstance(record, dict) and record["gpu"]["power_w"] == (301.5, None)


def test_what_does_not_decode_is_shown_with_its_reason() -> None:
    assert "p2@17  n1  does not decode: NodeTelemetry: DecodeError" in as_text(_message(b"{"))
    value = as_value(_message(b"\xff{"))
    assert value["value_base64"] == "/3s=" and "NodeTelemetry" in str(value["error"])
    assert as_text(_message(None)).endswith("(deleted: an empty value)")


def test_a_dead_letter_for_the_eye() -> None:
    letter = DeadLetter(TELEMETRY.name, 1, 5, "not JSON", "features", 1)
    message = _message(b"\xff", DLQ.name, tuple(letter.to_headers()))
    assert as_text(message).endswith("n1  energy.telemetry.node.v1 p1@5 by features: not JSON")


@pytest.mark.parametrize(
    ("topic", "value", "reason"),
    [
        (TELEMETRY.name, encode(SAMPLE), None),
        (TELEMETRY.name, b"{", "NodeTelemetry: DecodeError"),
        (TELEMETRY.name, None, "the value is empty"),
        ("energy.old.v1", b"{}", "topic 'energy.old.v1' carries no record of the contract"),
        ("", b"{}", "topic '' carries no record"),
    ],
)
def test_only_letters_that_decode_now_are_worth_a_replay(topic: str, value: bytes | None, reason: str | None) -> None:
    refusal = Letter(_message(value, DLQ.name), DeadLetter(topic, 0, 0, "e", "features", 1)).refusal()
    assert refusal is None if reason is None else refusal is not None and reason in refusal


def test_replay_needs_letters_or_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dlq", "replay"]) == 2
    assert main(["dlq", "replay", "0@1", "--all"]) == 2
    assert "name the letters to replay (partition@offset, see `eo dlq list`), or pass --all." in capsys.readouterr().err


@pytest.mark.parametrize("words", [["topics", "plan", "telemetry.node"], ["topics", "plan", "--partitions", "0"]])
def test_usage_errors_have_their_exit_code(words: list[str]) -> None:
    try:
        code = main(words)
    except SystemExit as stopped:  # argparse's own way
        code = int(str(stopped.code))
    assert code == 2


def test_a_difference_in_cleanup_is_alterable_and_in_partitions_is_not() -> None:
    kept = {"cleanup.policy": "compact", "segment.ms": "600000"}
    assert _compare(DESIRED, 4, 4, kept).action == "same"
    assert _compare(DESIRED, 4, 4, kept | {"cleanup.policy": "delete"}) == Change(
        DESIRED.name, "alter", "cleanup.policy delete -> compact", 4, (("cleanup.policy", "compact"),)
    )
    assert _compare(DESIRED, 24, 4, kept).action == "blocked"
