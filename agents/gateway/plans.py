"""The actuation job's plan for those who ask: read from the topic on demand, remembered for two seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from agents.gateway.problems import Problem
from streams.errors import StreamsError

CACHE_S: Final = 2.0
ASK_S: Final = 5.0
Read = Callable[[int], list[dict[str, Any]]]


class PlanDoor:
    """One reader for all requests; `read` gets the time and gives the newest plan of each worker."""

    def __init__(self, read: Read, *, monotonic: Callable[[], float]) -> None:
        self._read, self._monotonic = read, monotonic
        self._lock = threading.Lock()
        self._held: tuple[float, list[dict[str, Any]]] | None = None

    def latest(self, now_ns: int) -> list[dict[str, Any]]:
        """Blocks for some time; call it in a thread. Raises Problem (503) when the broker cannot answer."""
        with self._lock:
            if self._held is not None and self._monotonic() - self._held[0] < CACHE_S:
                return self._held[1]
            try:
                found = self._read(now_ns)
            except StreamsError as error:
                raise Problem(503, f"the plan cannot be read: {error}.", fix="`eo doctor kafka`") from error
            self._held = (self._monotonic(), found)
            return found


def kafka_plans(bootstrap: str, cluster: str) -> Read:
    """Reads the plans of a cluster from its broker."""

    def read(now_ns: int) -> list[dict[str, Any]]:
        from confluent_kafka import KafkaException

        from streams.plan import read_plans
        from streams.replay import Replay

        if not bootstrap:
            raise StreamsError("no broker is named (KAFKA_BOOTSTRAP)")
        try:
            with Replay(bootstrap, "eo-plan", timeout_s=ASK_S, quiet=True) as replay:
                return read_plans(replay, cluster, now_ns=now_ns)
        except KafkaException as error:
            raise StreamsError(f"{bootstrap} does not answer ({error.args[0].str()})") from error

    return read
