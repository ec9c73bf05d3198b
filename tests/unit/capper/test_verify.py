"""Which commands are obeyed at all: each refusal has its reason, and none sets anything."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from streams.contract.codec import encode
from streams.contract.records import PowerApplied
from tests.fakes.capper_rig import SIGNER, STRANGER, T0_NS, Rig, columns, command


def refused(rig: Rig, ack: PowerApplied) -> str:
    """The one reason of a refusal that changed nothing."""
    assert set(ack.gpu.status) == {"refused"}
    assert rig.set_calls == 0 and rig.untouched()
    assert not (rig.folder / "save.json").exists()
    (reason,) = set(ack.gpu.reason)
    return reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"node": "n2"}, "node: the command is for node 'n2', this is 'n1'; it claims epoch 1, seq 1"),
        ({"cluster": "c2"}, "cluster: the command is for cluster 'c2', this is 'c1'; it claims epoch 1, seq 1"),
        ({"issued_at_ns": T0_NS - 61 * 10**9}, "expired: issued 61.0 s ago, the window is 60 s; compare the clocks"),
        (
            {"issued_at_ns": T0_NS + 61 * 10**9},
            "expired: issued 61.0 s in the future, the window is 60 s; compare the clocks",
        ),
        ({"ttl_ms": 999}, "ttl: ttl 999 ms is outside 1 to 30 s"),
        ({"ttl_ms": 30_001}, "ttl: ttl 30001 ms is outside 1 to 30 s"),
        ({"ttl_ms": -1}, "ttl: ttl -1 ms is outside 1 to 30 s"),
        ({"epoch": -1}, "counter: epoch -1, seq 1 must not be negative"),
    ],
)
def test_a_signed_command_that_is_not_for_now_and_us_is_refused(rig: Rig, changes: dict[str, Any], reason: str) -> None:
    assert refused(rig, rig.grant(1, **changes)) == reason


def test_a_forged_command_is_refused_and_its_claims_are_not_repeated_as_fact(rig: Rig) -> None:
    ack = rig.send(encode(STRANGER.sign(command(7))))
    assert (
        refused(rig, ack) == "signature: signature does not fit the command under key 'job-1'; it claims epoch 1, seq 7"
    )
    assert (ack.epoch, ack.seq, ack.issued_at_ns, ack.gpu.requested_limit_w) == (0, 0, None, (None, None))
    assert ack.gpu.uuid == ("GPU-a", "GPU-b")


def test_an_unknown_key_is_refused(rig: Rig) -> None:
    signed = msgspec.structs.replace(SIGNER.sign(command(1)), key_id="other")
    assert refused(rig, rig.send(encode(signed))).startswith("signature: key 'other' is not in the key ring (1 keys)")


@pytest.mark.parametrize("field", ["seq", "epoch", "ttl_ms", "mode", "on_expiry", "gpu"])
def test_one_changed_field_breaks_the_signature(rig: Rig, field: str) -> None:
    signed = SIGNER.sign(command(1, mode="canary"))
    other: dict[str, Any] = {
        "seq": 2,
        "epoch": 2,
        "ttl_ms": 9_999,
        "mode": "on",
        "on_expiry": "hold",
        "gpu": columns(watts=499),
    }
    raw = encode(msgspec.structs.replace(signed, **{field: other[field]}))
    assert refused(rig, rig.send(raw)).startswith("signature: ")


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b"[]", b'{"epoch": 1}', b"\xff\xfe", b"[" * 100_000, b"{}" * 10])
def test_bytes_that_are_no_command_are_refused(rig: Rig, raw: bytes) -> None:
    assert refused(rig, rig.send(raw)).startswith("undecodable: ")


def test_an_endless_command_is_refused_unread(rig: Rig) -> None:
    assert refused(rig, rig.send(b" " * 300_000)) == "too_large: 300000 bytes is above 262144"


def test_a_counter_beyond_64_bits_is_refused(rig: Rig) -> None:
    assert refused(rig, rig.grant(1, epoch=2**63)).startswith("undecodable: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "true", '"500"'])
def test_a_limit_that_is_no_number_is_refused(rig: Rig, number: str) -> None:
    raw = rig.raw(1).replace(b"500.0", number.encode())
    assert refused(rig, rig.send(raw)).startswith(("undecodable: ", "signature: "))


@pytest.mark.parametrize(
    ("watts", "code"), [(-5.0, "value"), (0.0, "value"), (1e300, "unit"), (500_000.0, "unit"), (199.9, "floor")]
)
def test_a_signed_limit_out_of_all_bounds_is_refused(rig: Rig, watts: float, code: str) -> None:
    assert refused(rig, rig.grant(1, columns(watts=watts))).startswith(f"{code}: ")


def test_older_commands_are_stale_and_a_higher_epoch_fences_the_old_one(rig: Rig) -> None:
    rig.grant(5)
    calls = rig.set_calls
    assert rig.grant(4).gpu.reason[0] == "stale: epoch 1, seq 4 is not above the mark 1, 5"
    assert rig.grant(1, epoch=2).gpu.status == ("applied", "applied")
    zombie = rig.grant(6, columns(watts=300))
    assert zombie.gpu.reason[0] == "stale: epoch 1, seq 6 is not above the mark 2, 1"
    assert rig.set_calls == calls


def test_the_mark_outlives_the_process(rig: Rig) -> None:
    raw = rig.raw(5)
    rig.send(raw)
    rig.crash()
    rig.restart()
    calls = rig.set_calls
    assert rig.send(raw).gpu.reason[0] == "stale: epoch 1, seq 5 is not above the mark 1, 5"
    assert rig.set_calls == calls and rig.untouched()


def test_refusals_are_counted_by_code(rig: Rig) -> None:
    rig.send(b"{")
    rig.send(b"{")
    rig.grant(1, node="n2")
    counts = rig.capper.status()["counts"]
    assert counts == {"refused.undecodable": 2, "refused.node": 1}
