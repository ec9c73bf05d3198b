"""A BMC's bytes as one JSON object, with bounds on size; malformed text is an answer, not a crash."""

from __future__ import annotations

import json
from typing import Final

import msgspec

from agents.node.bmc.errors import BmcError
from agents.node.bmc.values import Json

MAX_BYTES: Final = 8 * 1024 * 1024


def document(raw: bytes, uri: str) -> Json:
    """The object that the bytes spell. Raises BmcError for anything else."""
    if len(raw) > MAX_BYTES:
        raise BmcError(f"{uri} is longer than {MAX_BYTES} bytes and is not read")
    try:
        value = _decoded(raw.removeprefix(b"\xef\xbb\xbf"))
    except RecursionError:
        raise BmcError(f"{uri} is nested too deeply to be read") from None
    except ValueError as error:
        raise BmcError(f"{uri} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BmcError(f"{uri} is JSON but no object")
    return value


def _decoded(raw: bytes) -> object:
    """Strict and fast at first; some firmware writes NaN and Infinity, which the standard library lets pass."""
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError:
        if b"NaN" not in raw and b"Infinity" not in raw:
            raise
        return json.loads(raw)
