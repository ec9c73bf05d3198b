"""A recorded Redfish tree on disk, laid out as DMTF's mockup creator does: one folder per address, index.json inside.

Other tools write NAME.json beside the folder of what lies below: that is read too.

It never leaves its folder and never reads more than a document may hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

from agents.node.bmc.documents import ROOT
from agents.node.bmc.errors import BmcError
from agents.node.bmc.json_text import MAX_BYTES, document
from agents.node.bmc.values import Json

NAME: Final = "index.json"


class RecordedTree:
    """Documents of a recording; the service root may be the folder itself, or lie under redfish/v1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = next((place for place in _places(folder) if _file(place).is_file()), folder)

    def problem(self) -> str | None:
        """Why nothing can be read here, None when there is a service root."""
        if not self.folder.is_dir():
            return f"{self.folder} is no folder; give the folder of a recorded Redfish tree"
        if not _file(self._root).is_file():
            return f"{self._root / NAME} is not there; a recorded Redfish tree holds its service root in it"
        return None

    async def get(self, uri: str) -> Json:
        """One document. Raises BmcError."""
        if not uri.startswith(ROOT):
            raise BmcError(f"{uri} lies outside {ROOT} and is not in the recording")
        folder, _, query = uri.removeprefix(ROOT).strip("/").partition("?")
        below = f"{unquote(folder)}?{unquote(query)}" if query else unquote(folder)
        path = _file(self._root / below if below else self._root)
        if not path.resolve().is_relative_to(self._root.parent.resolve() if not below else self._root.resolve()):
            raise BmcError(f"{uri} leads out of the recording and is not read")
        try:
            with path.open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except FileNotFoundError:
            raise BmcError("not in the recording") from None
        except (OSError, ValueError) as error:
            raise BmcError(f"{uri} cannot be read from the recording ({error})") from error
        return document(raw, uri)


def _file(place: Path) -> Path:
    """The document of an address: index.json in its folder, else NAME.json beside it."""
    beside = place.with_name(f"{place.name}.json") if place.name else place
    try:
        return beside if beside.is_file() and not (place / NAME).is_file() else place / NAME
    except OSError:  # a name that the disk cannot have is no file
        return place / NAME


def _places(folder: Path) -> list[Path]:
    """Where recordings have their service root: below redfish/v1, v1, right here, or one folder further down."""
    places = [folder / "redfish" / "v1", folder / "v1", folder]
    try:
        below = sorted(child for child in folder.iterdir() if child.is_dir())
    except OSError:
        return places
    return places + [child / "redfish" / "v1" for child in below[:64]]
