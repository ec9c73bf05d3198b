"""What a process of ours costs: CPU seconds, memory, bytes sent, and watts where a power figure exists.

Reads /proc/self at a scrape and nothing in between. The watts are this process's share of the host's CPU time, applied
to the host's CPU power: an estimate, and labelled so; without a power figure there is no such series, never a zero.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from streams.observe.proc import rss_bytes

CPUS: Final = os.cpu_count() or 1


def own_watts(own_cpu_ratio: float, host_util_ratio: float | None, host_cpu_w: float | None) -> float | None:
    """This process's share of the host's CPU power; None where a figure is missing.

    `own_cpu_ratio` is CPU seconds per second (1 = one core), `host_util_ratio` the use of all cores together.
    """
    if host_cpu_w is None or host_util_ratio is None or host_util_ratio <= 0:
        return None
    return host_cpu_w * min(1.0, own_cpu_ratio / (host_util_ratio * CPUS))


class OwnCost(Collector):
    """Own cost of one process.

    Args:
        role: "agent", "capper", "fleet", "worker:features", ...
        sent_bytes: () -> payload bytes handed to Kafka, before compression; None = this process sends none.
        watts: (CPU seconds per second since the last scrape) -> watts, None = unknown.
    """

    def __init__(
        self,
        role: str,
        *,
        sent_bytes: Callable[[], int] | None = None,
        watts: Callable[[float], float | None] = lambda _: None,
        cpu_s: Callable[[], float] = time.process_time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._role, self._sent, self._watts = role, sent_bytes, watts
        self._cpu_s, self._monotonic = cpu_s, monotonic
        self._last = (monotonic(), cpu_s())
        self._started_s = time.time()

    def collect(self) -> Iterator[Metric]:
        cpu_s, now_s = self._cpu_s(), self._monotonic()
        (then_s, before_s), self._last = self._last, (now_s, cpu_s)
        ratio = (cpu_s - before_s) / (now_s - then_s) if now_s > then_s else 0.0
        yield counter(
            "eo_process_cpu_seconds", "CPU time of a process of ours (in s).", ("role",), (self._role,), cpu_s
        )
        text = "Resident memory of a process of ours (in bytes)."
        yield gauge("eo_process_resident_memory_bytes", text, ("role",), (self._role,), rss_bytes())
        text = "When this process began (Unix time in s); its changes are restarts."
        yield gauge("eo_process_start_time_seconds", text, ("role",), (self._role,), self._started_s)
        text = "Payload handed to Kafka, before compression (in bytes)."
        sent = None if self._sent is None else self._sent()
        yield counter("eo_process_sent_payload_bytes", text, ("role",), (self._role,), sent)
        text = "Own power: our share of CPU time times the host's CPU power (in W); only where that is known."
        yield gauge("eo_process_power_watts", text, ("role", "quality"), (self._role, "estimated"), self._watts(ratio))


def counter(
    name: str, text: str, labels: tuple[str, ...], values: tuple[str, ...], value: float | None
) -> CounterMetricFamily:
    """A counter family with one sample, or none for an unknown value."""
    family = CounterMetricFamily(name, text, labels=labels)
    if value is not None:
        family.add_metric(values, value)
    return family


def gauge(
    name: str, text: str, labels: tuple[str, ...], values: tuple[str, ...], value: float | None
) -> GaugeMetricFamily:
    """A gauge family with one sample, or none for an unknown value."""
    family = GaugeMetricFamily(name, text, labels=labels)
    if value is not None:
        family.add_metric(values, value)
    return family
