"""Keeps a long-lived small process small: few malloc arenas, and what start-up left behind goes back to the system.

Reading the bindings' source without a byte-code cache takes 16 MB for a moment, and glibc gives each thread an arena of
its own; neither is of use afterwards. Where the C library is another one, nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
from typing import Any, Final

ARENAS: Final = 2
_M_ARENA_MAX: Final = -8  # mallopt(3)


def few_arenas(libc: Any = None) -> bool:
    """Bounds malloc's arenas; before the first thread, or it has no effect. Whether the C library took it."""
    try:
        return bool((libc or ctypes.CDLL(None)).mallopt(_M_ARENA_MAX, ARENAS))
    except (AttributeError, OSError):
        return False


def give_back(libc: Any = None) -> bool:
    """Collects garbage and returns free pages to the system; some milliseconds. Whether the C library can."""
    gc.collect()
    try:
        (libc or ctypes.CDLL(None)).malloc_trim(0)
    except (AttributeError, OSError):
        return False
    return True
