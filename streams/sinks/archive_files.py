"""Which files of the archive a reader must read. It reads manifests and names only, never a Parquet file's rows.

Compaction replaces files under readers' feet. A manifest in an hour's folder says for one partition which merged file
stands for which others; a reader that reads the manifest first and lists the folder second sees every row once.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from streams.sinks.parquet import hour_of, write_text

STAGED: Final = "_compacted"
log = logging.getLogger(__name__)


class Manifest(msgspec.Struct, frozen=True):
    """One merge. staged: readers take the staged file; moved: the file lies in the folder, the replaced are gone."""

    partition: int
    merged: str
    replaces: tuple[str, ...]
    phase: Literal["staged", "moved"]
    at_ns: int
    rows: int

    def path(self, folder: Path) -> Path:
        return manifest_path(folder, self.partition)

    def save(self, folder: Path) -> None:
        """Publishes it: readers follow it from now on."""
        write_text(self.path(folder), msgspec.json.encode(self).decode())


def manifest_path(folder: Path, partition: int) -> Path:
    return folder / f"manifest-p{partition}.json"


def staged_path(archive: Path, folder: Path, name: str) -> Path:
    """Where a merged file waits until the files that it replaces are gone. Its name ends differently, so that whoever
    counts rows by walking the folder does not count it twice."""
    return archive / STAGED / folder.relative_to(archive) / f"{name}.staged"


def manifests(folder: Path) -> list[Manifest]:
    """Manifests of an hour; one that cannot be read is named and passed over (its inputs are then still there)."""
    found: list[Manifest] = []
    for path in folder.glob("manifest-p*.json"):
        try:
            found.append(msgspec.json.decode(path.read_bytes(), type=Manifest))
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read (%s); remove it, compaction makes a new one", path, error)
    return found


def hour_folders(archive: Path, dataset: str = "*") -> list[Path]:
    """Folders of all hours, oldest first."""
    found = (path for path in archive.glob(f"topic={dataset}/date=*/hour=*") if hour_of(path) is not None)
    return sorted(found, key=lambda path: path.parts[-2:])


def live_files(archive: Path, folder: Path) -> list[Path]:
    """The files that together hold every row of an hour exactly once."""
    staged = [manifest for manifest in manifests(folder) if manifest.phase == "staged"]
    hidden = {name for manifest in staged for name in (*manifest.replaces, manifest.merged)}
    listed = [path for path in folder.glob("*.parquet") if path.name not in hidden]
    return sorted([*listed, *(staged_path(archive, folder, manifest.merged) for manifest in staged)])


@dataclass(frozen=True, slots=True)
class HourFiles:
    """One dataset's hour: hours since 1970 UTC and its live files."""

    hour: int
    folder: Path
    files: tuple[Path, ...]


def datasets(archive: Path) -> dict[str, list[HourFiles]]:
    """Live files of every dataset by hour, oldest first; empty for an archive that does not exist."""
    found: dict[str, list[HourFiles]] = {}
    for folder in hour_folders(archive):
        if files := live_files(archive, folder):
            name = folder.parts[-3].removeprefix("topic=")
            found.setdefault(name, []).append(HourFiles(_hour(folder), folder, tuple(files)))
    return found


def _hour(folder: Path) -> int:
    hour = hour_of(folder)
    if hour is None:
        raise ValueError(f"{folder} is not an hour's folder")
    return hour


def footer_fault(path: Path) -> str | None:
    """Why a file is certainly no whole Parquet file, else None. Costs one read of eight bytes."""
    try:
        with path.open("rb") as source:
            size = source.seek(0, 2)
            if size < 12:
                return f"{size} bytes, a Parquet file has at least 12"
            source.seek(size - 8)
            tail = source.read(8)
    except OSError as error:
        return error.strerror or str(error)
    if tail[4:] != b"PAR1":
        return "no Parquet footer: it was cut off or is another kind of file"
    if int.from_bytes(tail[:4], "little") > size - 12:
        return "its footer is longer than the file"
    return None


def each(archive: Path) -> Iterator[tuple[str, Path]]:
    """Every live file with its dataset."""
    for name, hours in datasets(archive).items():
        for hour in hours:
            for path in hour.files:
                yield name, path
