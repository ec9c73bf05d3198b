"""A thread that does one thing every few seconds until it is told to stop. What fails is said and tried again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Periodic:
    """`take` may block for some seconds; it is never called twice at a time."""

    def __init__(self, name: str, every_s: float, take: Callable[[], None]) -> None:
        self._name, self._every_s, self._take = name, every_s, take
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Asks it to end and waits a little: one that still waits for a broker ends with the process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._take()
            except Exception:  # a thread that ends unseen would leave old facts standing as if they were new
                log.exception("%s failed; again in %.0f s", self._name, self._every_s)
            self._stop.wait(self._every_s)
