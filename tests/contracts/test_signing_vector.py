"""The signing test vector: fixed bytes and signatures that a client in any language can check itself against."""

from __future__ import annotations

from typing import Any

import pytest
from nacl.signing import SigningKey, VerifyKey

from streams.contract import codec
from streams.contract.asyncapi import DOCUMENT
from streams.contract.records import OperatorIntent, PowerDesired
from streams.contract.signing import PART_FIELDS, SIGNED_FIELDS, KeyRing, Signer, canonical_bytes
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
    assert {name: len(fields) for name, fields in PART_FIELDS.items()} == {"EnvelopeColumns": 7, "LatencyTarget": 4}


def test_every_field_of_a_signed_record_is_signed() -> None:
    for record, (_, names) in SIGNED_FIELDS.items():
        assert set(record.__struct_fields__) - set(names) == {"signature"}


def test_documentation_shows_the_vector() -> None:
    text = DOCUMENT.read_text()
    shown = next(vector for vector in FILE["vectors"] if vector["golden"] == "operator_intent_pause")
    assert shown["canonical_hex"] in "".join(text.split())
    assert shown["signature_base64"] in text
    assert FILE["public_key_base64"] in text
