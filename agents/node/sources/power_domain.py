"""A power domain as the kernel's files describe it, and how to read such files without being hurt by them.

Discovery (powercap.py, hwmon.py) makes domains, rapl.py reads them. No history here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ReadText = Callable[[Path], str]
MAX_TEXT: Final = 4096  # these files hold one number or one word


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """One domain: who it is, and the files that measure and bound it (microjoules, microwatts)."""

    key: str  # unique on this host and stable: the folder's name
    name: str
    kind: str
    source: str
    parent: str | None = None
    energy: Path | None = None
    range_uj: int | None = None
    power: Path | None = None
    product: tuple[Path, Path] | None = None  # millivolts and milliamperes, where nothing gives watts: they multiply
    limit: Path | None = None
    limit_min: Path | None = None
    limit_max: Path | None = None


def read_text(path: Path) -> str:
    """The first bytes of a small file; odd bytes become replacement characters and fail as numbers."""
    with path.open("rb") as file:
        return file.read(MAX_TEXT).decode(errors="replace").strip()


def number(read: ReadText, path: Path | None) -> int | None:
    """A whole number of at least 0, None for a file that is missing, unreadable or says something else."""
    if path is None:
        return None
    try:
        value = int(read(path))
    except (OSError, ValueError):
        return None
    return value if 0 <= value < 2**63 else None


def power_uw(read: ReadText, domain: Domain) -> int | None:
    """What the domain draws now by its power file, else by voltage times current; None where it has neither."""
    if domain.power is not None or domain.product is None:
        return number(read, domain.power)
    volts, amperes = (number(read, path) for path in domain.product)
    return None if volts is None or amperes is None else volts * amperes


def word(read: ReadText, path: Path) -> str:
    """A file's one word or line, "" when it cannot be read."""
    try:
        lines = read(path).splitlines()
    except OSError:
        return ""
    return "".join(c for c in lines[0] if c.isprintable()).strip()[:64] if lines else ""


def why_unreadable(path: Path, error: Exception) -> str:
    """One sentence with the file, the cause and the next step."""
    if isinstance(error, PermissionError):
        return (
            f"{path} may be read by root only (since CVE-2020-8694): give the agent CAP_DAC_READ_SEARCH, "
            f"or run `chmod o+r {path}` at each start"
        )
    if isinstance(error, FileNotFoundError):
        return f"{path} is gone; the other domains go on"
    cause = error.strerror if isinstance(error, OSError) else f"it says {str(error)[-40:]}"
    return f"{path} cannot be read ({cause}); see the kernel's log for its driver"
