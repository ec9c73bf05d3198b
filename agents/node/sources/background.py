"""A slow source read at the side, so that its deadline is nobody else's: BMCs, exporters, programs that are started.

The agent's one loop senses and controls: a reading that blocks it for two seconds would let engines wait. Here a thread
reads, the loop takes the newest reading, and one that grew too old is no reading any more. A source without this
wrapper holds no thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from agents.node.errors import SourceError
from agents.node.sources.base import Probe, Reading, Source

FIRST_S: Final = 3.0  # how long the first reading may keep the loop waiting
MAX_AGE_FACTOR: Final = 5.0
MIN_AGE_S: Final = 10.0


class BackgroundSource:
    """Reads `source` every `interval_s` in a daemon thread; `read` gives the newest reading at once.

    Args:
        source: used by the thread alone, except for `probe` before the first reading.
        interval_s: pause from the start of one reading to the start of the next; a slow reading is not overtaken.
        max_age_s: an older reading is a failure; default five intervals, at least ten seconds.
        first_s: how long the first `read` may wait.
    """

    def __init__(
        self,
        source: Source,
        *,
        interval_s: float = 1.0,
        max_age_s: float | None = None,
        first_s: float = FIRST_S,
        clock_ns: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = source.name
        self._source, self._interval_s, self._first_s = source, interval_s, first_s
        self._max_age_s = max_age_s if max_age_s is not None else max(MIN_AGE_S, MAX_AGE_FACTOR * interval_s)
        self._clock_ns, self._monotonic = clock_ns, monotonic
        self._lock, self._first, self._stop = threading.Lock(), threading.Event(), threading.Event()
        self._newest: tuple[Reading, float] | None = None
        self._problem: str | None = None
        self._thread: threading.Thread | None = None

    def probe(self) -> Probe:
        return self._source.probe()

    def read(self, now_ns: int) -> Reading:
        """The newest reading, with its own time stamp. Raises SourceError when it failed or is too old."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"source-{self.name}", daemon=True)
            self._thread.start()
        self._first.wait(self._first_s if self._newest is None and self._problem is None else 0)
        with self._lock:
            newest, problem = self._newest, self._problem
        if problem is not None:
            raise SourceError(problem)
        if newest is None:
            raise SourceError(f"source {self.name} has not answered yet; it is asked again")
        if (age_s := self._monotonic() - newest[1]) > self._max_age_s:
            raise SourceError(
                f"source {self.name} has not answered for {age_s:.0f} s (bound {self._max_age_s:g} s); "
                "it is asked again"
            )
        return newest[0]

    def close(self) -> None:
        """Ends the thread; a reading that hangs is left to its own deadline, and its source closed after it."""
        self._stop.set()
        if self._thread is None:
            self._source.close()
        else:
            self._thread.join(self._first_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = self._monotonic()
            self._once()
            self._first.set()
            self._stop.wait(max(0.0, self._interval_s - (self._monotonic() - began)))
        self._source.close()

    def _once(self) -> None:
        try:
            reading = self._source.read(self._clock_ns())
        except Exception as error:  # noqa: BLE001 - told by `read` to whoever asks; the thread must go on
            text = str(error) if isinstance(error, SourceError) else f"{type(error).__name__}: {error}"
            with self._lock:
                self._problem = text
            return
        with self._lock:
            self._newest, self._problem = (reading, self._monotonic()), None
