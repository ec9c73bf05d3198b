"""The signing test vector: fixed bytes and signatures that a client in any language can check itself against."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from nacl.signing import SigningKey, VerifyKey

from streams.contract import codec
from streams.contract.asyncapi import DOCUMENT
from streams.contract.errors import ContractError, SignatureInvalid
from streams.contract.records import BrakeColumns, OperatorIntent, PowerDesired
from streams.contract.signing import BRAKED, PART_FIELDS, SIGNED_FIELDS, KeyRing, Signer, canonical_bytes
from tests.contracts.golden import FOLDER, record_of, signing_vectors

FILE = signing_vectors()
KEY = SigningKey(bytes.fromhex(FILE["seed_hex"]))


def golden(vector: dict[str, Any]) -> PowerDesired | OperatorIntent:
    path = FOLDER / "v1" / f"{vector['golden']}.json"
    record = codec.decode(record_of(path), path.read_bytes())
    assert isinstance(record, PowerDesired | OperatorIntent)
    return record


@pytest.mark.parametrize("vector", FILE["vectors"], ids=lambda vector: vector["golden"])
def test_canonical_bytes_and_signature_are_what_was_released(vector: dict[str, Any]) -> None:
    record = golden(vector)
    assert canonical_bytes(record).hex() == vector["canonical_hex"]
    assert record.signature == vector["signature_base64"]
    KeyRing({FILE["key_id"]: VerifyKey(bytes(KEY.verify_key))}).verify(record)


@pytest.mark.parametrize("vector", FILE["vectors"], ids=lambda vector: vector["golden"])
def test_signing_again_gives_the_same_signature(vector: dict[str, Any]) -> None:
    record = golden(vector)
    assert Signer(KEY, FILE["key_id"]).sign(record) == record


def test_signed_field_lists_are_frozen() -> None:
    assert {record.__name__: len(names) for record, (_, names) in SIGNED_FIELDS.items()} == {
        "PowerDesired": 18,
        "OperatorIntent": 11,
    }
    parts = {"EnvelopeColumns": 7, "LatencyTarget": 4, "BrakeColumns": 4}
    assert {name: len(fields) for name, fields in PART_FIELDS.items()} == parts


def test_every_field_of_a_signed_record_is_signed() -> None:
    for record, (_, names) in SIGNED_FIELDS.items():
        assert set(record.__struct_fields__) - set(names) - {"brake"} == {"signature"}
    assert set(PowerDesired.__struct_fields__) - set(BRAKED[1]) == {"signature"}


def test_a_brake_table_is_signed_and_cannot_be_changed_added_or_taken_away() -> None:
    plain = next(r for r in map(golden, FILE["vectors"]) if isinstance(r, PowerDesired))
    table = BrakeColumns(row="r1", budget_w=9e3, from_ratio=(0.9,), max_power_w=((300.0,) * len(plain.gpu.uuid),))
    ring = KeyRing({FILE["key_id"]: VerifyKey(bytes(KEY.verify_key))})
    signed = Signer(KEY, FILE["key_id"]).sign(msgspec.structs.replace(plain, brake=table))
    ring.verify(codec.decode(PowerDesired, codec.encode(signed)))
    assert canonical_bytes(signed).startswith(b"\x00\x00\x00\x12eo.power.desired/2")
    short = msgspec.structs.replace(table, max_power_w=((300.0,),))
    with pytest.raises(ContractError, match="brake has 1 shares and 1 steps for"):
        codec.decode(PowerDesired, codec.encode(msgspec.structs.replace(signed, brake=short)))
    lower = msgspec.structs.replace(table, budget_w=1.0)
    for forged in (
        msgspec.structs.replace(signed, brake=None),
        msgspec.structs.replace(signed, brake=lower),
        msgspec.structs.replace(plain, brake=table),
    ):
        with pytest.raises(SignatureInvalid):
            ring.verify(forged)


def test_documentation_shows_the_vector() -> None:
    text = DOCUMENT.read_text()
    shown = next(vector for vector in FILE["vectors"] if vector["golden"] == "operator_intent_pause")
    assert shown["canonical_hex"] in "".join(text.split())
    assert shown["signature_base64"] in text
    assert FILE["public_key_base64"] in text
