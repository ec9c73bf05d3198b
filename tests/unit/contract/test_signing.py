"""Keys on disk, the key ring, and the sentences of each refusal."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from nacl.signing import SigningKey

from streams.contract.errors import SignatureInvalid
from streams.contract.records import OperatorIntent
from streams.contract.signing import KeyRing, Signer, canonical_bytes, generate

INTENT = OperatorIntent(
    cluster="c", scope="cluster", intent_id="i", ts_ns=1, actor="a", kind="cap", reason="r", max_power_w=400.0
)


def ring(tmp_path: Path, text: str) -> KeyRing:
    path = tmp_path / "keyring"
    path.write_text(text)
    return KeyRing.load(path)


def test_key_is_private_on_disk_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "operator.key"
    made = generate("operator", path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Signer.load(path).public_line() == made.public_line()
    with pytest.raises(FileExistsError):
        generate("operator", path)


def test_ring_reads_several_keys_and_comments(tmp_path: Path) -> None:
    old, new = Signer(SigningKey.generate(), "old"), Signer(SigningKey.generate(), "new")
    keys = ring(tmp_path, f"# rotation\n{old.public_line()}  # until May\n\n{new.public_line()}\n")
    keys.verify(old.sign(INTENT))
    keys.verify(new.sign(INTENT))


def test_unknown_key_and_wrong_key_are_told_apart(tmp_path: Path) -> None:
    known, stranger = Signer(SigningKey.generate(), "known"), Signer(SigningKey.generate(), "stranger")
    keys = ring(tmp_path, known.public_line())
    with pytest.raises(SignatureInvalid, match=r"key 'stranger' is not in the key ring \(1 keys\)"):
        keys.verify(stranger.sign(INTENT))
    forged = msgspec.structs.replace(stranger.sign(INTENT), key_id="known")
    with pytest.raises(SignatureInvalid, match="does not fit"):
        keys.verify(forged)


def respelled(signature: str) -> str:
    """Another base64 text of the same bytes: the four unused bits of the last character are set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = alphabet[alphabet.index(signature[-3]) | 1]
    return f"{signature[:-3]}{last}=="


def test_a_signature_has_one_spelling(tmp_path: Path) -> None:
    signer = Signer(SigningKey.generate(), "k")
    keys, signed = ring(tmp_path, signer.public_line()), signer.sign(INTENT)
    other = msgspec.structs.replace(signed, signature=respelled(signed.signature))
    assert base64.b64decode(other.signature) == base64.b64decode(signed.signature)
    with pytest.raises(SignatureInvalid):
        keys.verify(other)


@pytest.mark.parametrize("signature", ["", "AAAA", "not base64", "é", "A" * 88, " " * 88])
def test_odd_signatures_are_refused_not_raised(tmp_path: Path, signature: str) -> None:
    signer = Signer(SigningKey.generate(), "k")
    odd = msgspec.structs.replace(signer.sign(INTENT), signature=signature)
    with pytest.raises(SignatureInvalid):
        ring(tmp_path, signer.public_line()).verify(odd)


@pytest.mark.parametrize("text", ["one-word", "id not-base64!", "id AAAA", "id AAAA extra"])
def test_bad_key_lines_name_file_and_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="keyring:2 is not a public key line"):
        ring(tmp_path, f"# head\n{text}\n")


@pytest.mark.parametrize("text", ["", "id", "id AAAA", "id !!!!"])
def test_bad_key_file_says_how_to_make_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "operator.key"
    path.write_text(text)
    with pytest.raises(ValueError, match="eo config keys"):
        Signer.load(path)


def test_numbers_count_by_value() -> None:
    whole = msgspec.structs.replace(INTENT, max_power_w=400)  # type: ignore[arg-type]
    assert canonical_bytes(whole) == canonical_bytes(INTENT)
    assert canonical_bytes(msgspec.structs.replace(INTENT, max_power_w=400.5)) != canonical_bytes(INTENT)


def test_a_value_without_canonical_bytes_is_refused() -> None:
    with pytest.raises(TypeError, match="dict has no canonical bytes"):
        canonical_bytes(msgspec.structs.replace(INTENT, reason={"a": 1}))  # type: ignore[arg-type]
