"""Laws of the signature: any signed value that changes breaks it, and so does any bit of it."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from streams.contract import codec
from streams.contract.errors import SignatureInvalid
from streams.contract.records import OperatorIntent, PowerDesired
from streams.contract.signing import SIGNED_FIELDS, KeyRing, Signer, canonical_bytes
from tests.properties.contract_strategies import record

SIGNER = Signer(SigningKey(bytes(range(32))), "test")
RING = KeyRing({"test": SigningKey(bytes(range(32))).verify_key})
KINDS = (PowerDesired, OperatorIntent)
FEW = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
Signed = PowerDesired | OperatorIntent


def refused(value: Signed) -> bool:
    try:
        RING.verify(value)
    except SignatureInvalid:
        return True
    return False


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@FEW
def test_signature_survives_the_wire(kind: type[Signed], data: st.DataObject) -> None:
    signed = SIGNER.sign(data.draw(record(kind)))
    RING.verify(codec.decode(kind, codec.encode(signed)))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@FEW
def test_any_changed_field_breaks_the_signature(kind: type[Signed], data: st.DataObject) -> None:
    signed: Any = SIGNER.sign(data.draw(record(kind)))
    other = data.draw(record(kind))
    name = data.draw(st.sampled_from(SIGNED_FIELDS[kind][1]))
    changed = msgspec.structs.replace(signed, **{name: getattr(other, name)})
    assume(changed != signed)
    assert canonical_bytes(changed) != canonical_bytes(signed)
    assert refused(changed)


@given(data=st.data())
@FEW
def test_any_changed_entry_of_the_envelope_breaks_the_signature(data: st.DataObject) -> None:
    signed: PowerDesired = SIGNER.sign(data.draw(record(PowerDesired)))
    assume(signed.gpu.uuid)
    names = ("uuid", "min_sm_mhz", "max_sm_mhz", "max_power_w", "engine", "holdout", "reason")
    name = data.draw(st.sampled_from(names))
    column = list(getattr(signed.gpu, name))
    other = [*column[1:], column[0], None] if data.draw(st.booleans()) else [None, *column[1:]]
    assume(other != column)
    envelope = msgspec.structs.replace(signed.gpu, **{name: tuple(other)})
    assert refused(msgspec.structs.replace(signed, gpu=envelope))


@given(data=st.data())
@FEW
def test_equal_bytes_mean_equal_records(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    one, two = data.draw(record(kind)), data.draw(record(kind))
    unsigned = [msgspec.structs.replace(value, signature="") for value in (one, two)]
    assert (canonical_bytes(one) == canonical_bytes(two)) == (unsigned[0] == unsigned[1])


WORD = st.text("ab/\x00", min_size=1, max_size=4)


@given(first=WORD, second=WORD, move=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_text_cannot_move_from_one_field_to_the_next(first: str, second: str, move: int) -> None:
    intent = OperatorIntent(cluster=first, scope=second, intent_id="i", ts_ns=1, actor="a", kind="pause", reason="r")
    moved = msgspec.structs.replace(intent, cluster=first[:-move], scope=first[-move:] + second)
    assert canonical_bytes(moved) != canonical_bytes(intent)


@given(byte=st.integers(0, 63), bit=st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_of_the_signature_is_refused(byte: int, bit: int) -> None:
    raw = bytearray(base64.b64decode(SIGNED.signature))
    raw[byte] ^= 1 << bit
    assert refused(msgspec.structs.replace(SIGNED, signature=base64.b64encode(bytes(raw)).decode()))


@given(position=st.integers(0, 87), bit=st.integers(0, 6))
@settings(max_examples=200, deadline=None)
def test_any_flipped_bit_of_the_signatures_text_is_refused(position: int, bit: int) -> None:
    text = SIGNED.signature
    flipped = text[:position] + chr(ord(text[position]) ^ (1 << bit)) + text[position + 1 :]
    assert refused(msgspec.structs.replace(SIGNED, signature=flipped))


@given(text=st.text(max_size=100))
@settings(max_examples=100, deadline=None)
def test_any_text_as_signature_is_refused_and_never_raises_otherwise(text: str) -> None:
    assert refused(msgspec.structs.replace(SIGNED, signature=text))


SIGNED = SIGNER.sign(
    OperatorIntent(cluster="c", scope="cluster", intent_id="i", ts_ns=1, actor="a", kind="pause", reason="r")
)
