"""A loop that stands still ends its process and names the place; one that beats is left alone."""

from __future__ import annotations

import threading
import time

from streams.watchdog import EXIT_CODE, Watchdog


def test_a_loop_that_stands_still_ends_the_process() -> None:
    ended, codes = threading.Event(), []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()

    Watchdog(0.05, end=end).start()
    assert ended.wait(10)
    assert codes == [EXIT_CODE]


def test_the_reason_names_the_limit_and_the_place() -> None:
    reason = Watchdog(60).reason(61)
    assert reason.startswith("the worker's loop has stood still for 61 s (limit 60 s) in File ")
    assert "watchdog.py" in reason and "in reason;" in reason


def test_beats_keep_it_quiet_and_stop_ends_the_watch() -> None:
    codes: list[int] = []
    watchdog = Watchdog(5.0, end=codes.append)
    watchdog.start()
    watchdog.beat()
    assert time.monotonic() - watchdog._beat_s < 5
    watchdog.stop()
    threads = [one for one in threading.enumerate() if one.name == "watchdog"]
    for one in threads:
        one.join(10)
    assert codes == []
    assert not any(one.is_alive() for one in threads)
