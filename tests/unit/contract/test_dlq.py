"""Dead letters: whatever stands in the headers, the queue stays readable."""

from __future__ import annotations

from streams.contract.dlq import MAX_ERROR, DeadLetter

LETTER = DeadLetter(
    "energy.telemetry.node.v1", 3, 42, "NodeTelemetry: truncated", "features", 1_767_225_600_000_000_000
)


def test_headers_round_trip_beside_the_originals() -> None:
    headers = [("content-type", b"application/json"), *LETTER.to_headers()]
    assert DeadLetter.from_headers(headers) == LETTER


def test_missing_odd_and_null_headers_become_blank() -> None:
    nothing = DeadLetter("", -1, -1, "", "", -1)
    assert DeadLetter.from_headers(None) == nothing
    assert DeadLetter.from_headers([("dlq.partition", None), ("dlq.offset", b"x"), ("dlq.topic", None)]) == nothing
    assert DeadLetter.from_headers([("dlq.error", b"\xff")]).error == "\ufffd"


def test_a_long_reason_is_cut_and_an_odd_one_survives() -> None:
    headers = DeadLetter("t", 0, 0, "\ud800" + "x" * 5000, "c", 0).to_headers()
    assert len(DeadLetter.from_headers(list(headers)).error) == MAX_ERROR
