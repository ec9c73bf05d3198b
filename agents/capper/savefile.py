"""The save file: what each knob said before us. Written and fsynced before the first set, kept until put back.

It is a promise, not a cache: whoever finds it puts the values back, with or without a capper alive.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Final

import msgspec

from agents.capper import durable
from agents.capper.errors import CapperError

FILE_NAME: Final = "save.json"


class SavedKnob(msgspec.Struct, frozen=True, kw_only=True):
    """One knob of one GPU as we found it. `previous` is watts or MHz; null = there was no lock."""

    previous: float | None
    owner: str  # whose value it was, as far as the device tells: "device default" or "set by others"
    saved_at_ns: int


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that must be put back on one node. A GPU is listed as long as we hold its knob."""

    cluster: str
    node: str
    capper_id: str
    power_actuator: str = ""
    clock_actuator: str = ""
    power: dict[str, SavedKnob] = {}
    clock: dict[str, SavedKnob] = {}
    version: int = 1

    @property
    def empty(self) -> bool:
        return not self.power and not self.clock


class _File(msgspec.Struct, frozen=True):
    crc32: int
    body: msgspec.Raw


def encode(saved: Saved) -> bytes:
    body = msgspec.json.encode(saved)
    return msgspec.json.encode(_File(zlib.crc32(body), msgspec.Raw(body))) + b"\n"


def write(folder: Path, saved: Saved) -> None:
    """Durable on return. Raises OSError; then the file is as it was."""
    durable.replace(folder / FILE_NAME, encode(saved))


def load(folder: Path) -> Saved | None:
    """The save file, None when there is none. Raises CapperError when it cannot be read or trusted."""
    path = folder / FILE_NAME
    advice = "nothing was set: compare the limits by hand (nvidia-smi -q -d POWER,CLOCK), then move the file away"
    try:
        outer = msgspec.json.decode(path.read_bytes(), type=_File)
        if zlib.crc32(bytes(outer.body)) != outer.crc32:
            raise CapperError(f"{path} fails its checksum; {advice}")
        saved = msgspec.json.decode(outer.body, type=Saved)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CapperError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    except msgspec.MsgspecError as error:
        raise CapperError(f"{path} is not a save file ({error}); {advice}") from error
    if saved.version != 1:
        raise CapperError(f"{path} has version {saved.version}, this release reads 1; {advice}")
    return saved
