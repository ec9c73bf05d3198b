"""The background thread that reads the topics into the cluster's state, whatever happens to the broker.

It joins no group and commits nothing. Without a broker it says so in `problem` and tries again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from agents.cli.live import LiveReader
from agents.gateway.cluster import ClusterState
from streams.contract.topics import ALERT, ANOMALY

log = logging.getLogger(__name__)
POLL_S: Final = 0.5
BATCH: Final = 200  # a batch holds the interpreter for some milliseconds, and requests wait for it
RETRY_S: Final = 2.0
TOPICS_S: Final = 15.0  # until missing topics are looked for again
EVENTS_S: Final = 24 * 3600.0  # verdicts and alerts are few: a day of them
WAIT_MS: Final = 500  # the broker may gather for so long: fewer, larger fetches


class Reader(Protocol):
    missing: tuple[str, ...]

    def poll(self, state: ClusterState, timeout_s: float, most: int = ...) -> int: ...

    def close(self) -> None: ...


class Feed:
    """Runs until `stop()`; `after` is called about every half second, for what is pushed to clients."""

    def __init__(
        self,
        state: ClusterState,
        open_reader: Callable[[float, float], Reader],
        *,
        history_s: float,
        after: Callable[[], None],
    ) -> None:
        self.state, self._open, self._history_s, self._after = state, open_reader, history_s, after
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.problem: str | None = "not connected yet"

    def start(self) -> None:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        history_s, events_s = self._history_s, EVENTS_S
        while not self._stop.is_set():
            try:
                reader = self._open(history_s, events_s)
            except Exception as error:  # noqa: BLE001 - whatever the client raises, the gateway goes on answering
                self._say(f"the broker cannot be read: {_words(error)}")
                self._stop.wait(RETRY_S)
                continue
            history_s = events_s = 0.0  # what was read once is not read again: histograms would count double
            self._say(f"topics missing: {', '.join(reader.missing)}" if reader.missing else None)
            try:
                self._read(reader)
            except Exception as error:
                log.exception("the feed failed and starts again")
                self._say(f"reading failed: {_words(error)}")
                self._stop.wait(RETRY_S)
            finally:
                reader.close()

    def _read(self, reader: Reader) -> None:
        began, told = time.monotonic(), time.monotonic()
        while not self._stop.is_set():
            got = reader.poll(self.state, POLL_S, BATCH)
            now = time.monotonic()
            if now - told >= POLL_S or got < BATCH:
                told = now
                self._after()
            if got == 0:
                self._stop.wait(0.05)  # a reader that returns at once must not spin
            if reader.missing and now - began > TOPICS_S:
                return

    def _say(self, problem: str | None) -> None:
        if problem != self.problem and problem is not None:
            log.warning("%s", problem)
        self.problem = problem


def _words(error: Exception) -> str:
    first = error.args[0] if error.args else error
    said = first.str() if hasattr(first, "str") else str(first)
    return f"{said} ({type(error).__name__})"


def kafka_reader(bootstrap: str) -> Callable[[float, float], LiveReader]:
    """Opens readers of one broker."""

    def opened(history_s: float, events_s: float) -> LiveReader:
        more = {ANOMALY: events_s, ALERT: events_s}
        return LiveReader(bootstrap, history_s=history_s, more=more, client_id="eo-gateway", wait_ms=WAIT_MS)

    return opened
