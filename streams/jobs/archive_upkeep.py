"""Runs compaction beside the archive job: one thread, one pass at a time, only for partitions that are ours."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streams.compaction import compact

EVERY_S: Final = 60.0
log = logging.getLogger(__name__)


class Upkeep:
    """Starts a pass every minute. One that fails is logged and tried again: the archive is whole without it."""

    def __init__(self, archive: Path, wall_ns: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self.partitions: frozenset[int] = frozenset()
        self._archive, self._wall_ns, self._monotonic = archive, wall_ns, monotonic
        self.next_s = monotonic() + EVERY_S
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def beat(self) -> None:
        """Starts a pass when one is due."""
        if self._monotonic() < self.next_s or not self.partitions:
            return
        if self._thread is not None and self._thread.is_alive():
            return
        self.next_s = self._monotonic() + EVERY_S
        self._ending = threading.Event()
        arguments = (self.partitions, self._ending)
        self._thread = threading.Thread(target=self._pass, args=arguments, name="compaction")
        self._thread.start()

    def _pass(self, partitions: frozenset[int], ending: threading.Event) -> None:
        try:
            report = compact(self._archive, now_ns=self._wall_ns(), partitions=partitions, ending=ending.is_set)
        except Exception:
            # Whatever it was, nothing is lost without compaction, and a thread has nobody to tell but the log.
            log.exception("compaction of %s failed; the archive stays as it was", self._archive)
            return
        if report.merged:
            log.info("compacted %d files into %d", report.replaced, report.merged)

    def release(self) -> None:
        """The partitions are another worker's now: the pass in progress ends after the hour that it is at."""
        self.partitions = frozenset()
        self._ending.set()

    def close(self) -> None:
        """Ends the pass in progress and waits for it; what is left, the next pass takes up."""
        self.release()
        if self._thread is not None:
            self._thread.join()
