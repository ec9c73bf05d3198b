"""Memory of this process from /proc. Standard library only, so that the capper can tell it too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def rss_bytes(statm: Path = Path("/proc/self/statm")) -> int | None:
    """Resident memory of this process; None where /proc does not say."""
    try:
        return int(statm.read_text().split()[1]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
