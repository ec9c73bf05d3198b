"""Canonical bytes and Ed25519 signatures of commands and operator intents (RFC 8032, through libsodium).

The bytes are length-prefixed and typed, made from field values and never from JSON text, so a re-encoding cannot change
them. The signed fields of version 1 are fixed below; a field added later is outside a version 1 signature and carries
no authority there. A command with a brake table is signed as version 2, which is version 1 and the table: a reader that
does not know the table finds that the signature does not fit and refuses, rather than obeying half of a command.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from streams.contract.errors import SignatureInvalid
from streams.contract.records import OperatorIntent, PowerDesired, Record

S = TypeVar("S", PowerDesired, OperatorIntent)

SIGNED_FIELDS: Final[dict[type[Record], tuple[bytes, tuple[str, ...]]]] = {
    PowerDesired: (
        b"eo.power.desired/1",
        (
            "cluster",
            "node",
            "epoch",
            "seq",
            "issued_at_ns",
            "sample_ts_ns",
            "ttl_ms",
            "on_expiry",
            "mode",
            "strategy",
            "policy_version",
            "gpu",
            "reason",
            "schema",
            "targets",
            "propensity",
            "cause",
            "key_id",
        ),
    ),
    OperatorIntent: (
        b"eo.operator.intent/1",
        (
            "cluster",
            "scope",
            "intent_id",
            "ts_ns",
            "actor",
            "kind",
            "reason",
            "schema",
            "max_power_w",
            "expires_ns",
            "key_id",
        ),
    ),
}
# Parts of signed records, fixed for the same reason: a tolerant reader must see the same bytes as a newer writer.
PART_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "EnvelopeColumns": ("uuid", "min_sm_mhz", "max_sm_mhz", "max_power_w", "engine", "holdout", "reason"),
    "LatencyTarget": ("engine", "tbt_ms", "ttft_ms", "e2e_ms"),
    "BrakeColumns": ("row", "budget_w", "from_ratio", "max_power_w"),
}


BRAKED: Final = b"eo.power.desired/2", (*SIGNED_FIELDS[PowerDesired][1], "brake")


def canonical_bytes(record: PowerDesired | OperatorIntent) -> bytes:
    """The bytes that are signed: a domain tag, then each signed field, typed and length-prefixed."""
    braked = isinstance(record, PowerDesired) and record.brake is not None
    tag, names = BRAKED if braked else SIGNED_FIELDS[type(record)]
    return _text(tag) + b"".join([_value(getattr(record, name)) for name in names])


_LENGTH: Final = struct.Struct(">I").pack
_DOUBLE: Final = struct.Struct(">d").pack


def _text(raw: bytes) -> bytes:
    return _LENGTH(len(raw)) + raw


def _float(value: float) -> bytes:
    # A whole float and an int are one number in JSON, so they must be one number here.
    return b"I" + _text(b"%d" % int(value)) if value.is_integer() else b"D" + _DOUBLE(value)


def _list(values: tuple[object, ...]) -> bytes:
    return b"L" + _LENGTH(len(values)) + b"".join([_value(value) for value in values])


# By exact type: a node's envelope has some sixty values, and this is most of what verifying it costs.
_WRITERS: Final[dict[type, Callable[[Any], bytes]]] = {
    type(None): lambda _: b"N",
    bool: lambda value: b"T" if value else b"F",
    int: lambda value: b"I" + _text(b"%d" % value),
    float: _float,
    str: lambda value: b"S" + _text(value.encode()),
    tuple: _list,
    list: _list,
}


def _value(value: object) -> bytes:
    writer = _WRITERS.get(type(value))
    if writer is not None:
        return writer(value)
    names = PART_FIELDS.get(type(value).__name__)
    if names is None:
        raise TypeError(f"{type(value).__name__} has no canonical bytes")
    return b"R" + b"".join([_value(getattr(value, name)) for name in names])


class Signer:
    """Holds one private key; only the actuation job (commands) and the operator's `eo` (intents) have one."""

    def __init__(self, key: SigningKey, key_id: str) -> None:
        self._key, self.key_id = key, key_id

    @classmethod
    def load(cls, path: Path) -> Signer:
        """Reads a key file: one line, "key_id base64-seed"; raises OSError or ValueError with the path."""
        try:
            key_id, seed = path.read_text().split()
            return cls(SigningKey(base64.b64decode(seed, validate=True)), key_id)
        except ValueError as error:
            hint = "one line: key_id base64-seed; make one with `eo config keys`"
            raise ValueError(f"{path} is not a key file ({hint})") from error

    def sign(self, record: S) -> S:
        """The same record with key_id and signature filled in."""
        named = msgspec.structs.replace(record, key_id=self.key_id, signature="")
        signature = self._key.sign(canonical_bytes(named)).signature
        return msgspec.structs.replace(named, signature=base64.b64encode(signature).decode())

    def public_line(self) -> str:
        """The key ring's line of this key."""
        return f"{self.key_id} {base64.b64encode(bytes(self._key.verify_key)).decode()}"


class KeyRing:
    """Public keys by id; several may be live during a rotation."""

    def __init__(self, keys: dict[str, VerifyKey]) -> None:
        self._keys = keys

    @classmethod
    def load(cls, path: Path) -> KeyRing:
        """Reads lines "key_id base64-public-key"; `#` starts a comment. Raises OSError or ValueError with the path."""
        keys: dict[str, VerifyKey] = {}
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if not (text := line.split("#", 1)[0].strip()):
                continue
            try:
                key_id, raw = text.split()
                keys[key_id] = VerifyKey(base64.b64decode(raw, validate=True))
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not a public key line (key_id base64-key)") from error
        return cls(keys)

    def verify(self, record: PowerDesired | OperatorIntent) -> None:
        """Returns when the signature holds; raises SignatureInvalid with the key id otherwise."""
        key = self._keys.get(record.key_id)
        if key is None:
            raise SignatureInvalid(f"key {record.key_id!r} is not in the key ring ({len(self._keys)} keys)")
        try:
            key.verify(canonical_bytes(record), _signature(record.signature))
        except (BadSignatureError, ValueError, OverflowError) as error:
            raise SignatureInvalid(f"signature does not fit the command under key {record.key_id!r}") from error


def _signature(text: str) -> bytes:
    """Bytes of a base64 signature in its one canonical spelling; raises ValueError for any other."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        # The last character carries four unused bits, which the decoder ignores: one signature, one text.
        raise ValueError("the signature is not canonical base64")
    return raw


def generate(key_id: str, private_path: Path) -> Signer:
    """Writes a new private key with mode 0600 and returns its signer; refuses to overwrite."""
    key = SigningKey.generate()
    private_path.parent.mkdir(parents=True, exist_ok=True)
    private_path.touch(mode=0o600, exist_ok=False)
    private_path.write_text(f"{key_id} {base64.b64encode(bytes(key)).decode()}\n")
    return Signer(key, key_id)
