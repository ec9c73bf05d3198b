"""A BMC's bytes as one JSON object, with bounds on size; malformed text is an answer, not a crash."""

from __future__ import annotations

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
        value = msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.DecodeError as error:
        raise BmcError(f"{uri} is not JSON ({error})") from error
    except RecursionError:
        raise BmcError(f"{uri} is nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise BmcError(f"{uri} is not UTF-8 ({error.reason})") from error
    if not isinstance(value, dict):
        raise BmcError(f"{uri} is JSON but no object")
    return value
