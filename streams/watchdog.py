"""Ends a worker whose event loop stands still, from a thread of its own: a job that hangs cannot be asked to stop."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final

EXIT_CODE: Final = 1
log = logging.getLogger(__name__)


class Watchdog:
    """`beat()` from the loop; without a beat for `limit_s` it says where the main thread stands and exits."""

    def __init__(self, limit_s: float, *, end: Callable[[int], object] = os._exit) -> None:
        self._limit_s = limit_s
        self._end = end
        self._main = threading.main_thread().ident
        self._beat_s = time.monotonic()
        self._done = threading.Event()

    def start(self) -> None:
        """Begins to watch."""
        self.beat()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self) -> None:
        """The loop runs."""
        self._beat_s = time.monotonic()

    def stop(self) -> None:
        """Watches no longer."""
        self._done.set()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._limit_s / 4)):
            still_s = time.monotonic() - self._beat_s
            if still_s >= self._limit_s:
                log.error("%s", self.reason(still_s))
                logging.shutdown()
                self._end(EXIT_CODE)
                return

    def reason(self, still_s: float) -> str:
        """One sentence and where the main thread stands now."""
        frame = sys._current_frames().get(self._main or 0)
        where = "unknown" if frame is None else traceback.format_stack(frame, limit=1)[0].split("\n")[0].strip()
        return (
            f"the worker's loop has stood still for {still_s:.0f} s (limit {self._limit_s:.0f} s) in {where}; "
            "exiting so that the supervisor starts a fresh worker"
        )
