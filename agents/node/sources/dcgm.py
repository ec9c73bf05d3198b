"""NVIDIA GPUs through dcgm-exporter's metrics text, by URL or from a file. Reads only; needs no right on the GPU.

Names of every release (key is DCGM's field number), blanks as null, MIG slices and workloads told apart, units checked.
An exporter that repeats the same energy counters stands still: then there is no reading, rather than an old one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from agents.node.errors import SettingsError, SourceError
from agents.node.sources import dcgm_fields, dcgm_text, fetch, prom_text
from agents.node.sources.base import Probe, Reading
from streams.contract.records import GpuColumns

log = logging.getLogger(__name__)
MAX_BYTES: Final = 4 * 2**20  # a node of 16 GPUs with every family publishes a tenth of that
MAX_SAMPLES: Final = 50_000
STALE_S: Final = 120.0  # dcgm-exporter collects every 30 s by default; its energy counters move even at idle


class DcgmSource:
    """All GPUs of an exporter's text; quality "measured".

    Args:
        url: where the exporter answers.
        file: a recorded text instead.
        host: this node's name: of a text with several hosts (a federated one) only its GPUs are this node's.
        deadline_s: for one reading by URL.
        stale_s: after so long without any change of the energy counters a live text is no reading any more.
        monotonic: seconds, for the age of the signal; a wall clock that jumps changes nothing.
    """

    name = "dcgm"

    def __init__(
        self,
        url: str = "",
        *,
        file: str = "",
        host: str = "",
        deadline_s: float = fetch.DEADLINE_S,
        stale_s: float = STALE_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if bool(url) == bool(file):
            raise SettingsError("source dcgm reads one text: give its URL (http://HOST:9400/metrics) or a file")
        self._url, self._file = fetch.checked_url(url, "/metrics") if url else "", file
        self._host = host
        self._newest_ms: float | None = None
        self._deadline_s, self._stale_s, self._monotonic = float(deadline_s), float(stale_s), monotonic
        self._units = dcgm_text.Units()
        self._energy: tuple[object, float] | None = None  # counters, and when they last moved
        self._capability: tuple[str, ...] = ()

    def probe(self) -> Probe:
        try:
            gpu, missing = self._columns()
        except SourceError as error:
            return Probe(False, str(error))
        if gpu is None:
            return Probe(False, self._nothing(missing))
        return Probe(True, None, self._capability)

    def read(self, now_ns: int) -> Reading:
        """One scrape. Raises SourceError when the exporter does not answer, stands still or names no GPU."""
        gpu, missing = self._columns()
        if gpu is None:
            raise SourceError(self._nothing(missing))
        self._moves(gpu)
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=self._capability,
            gpu=gpu,
            missing=tuple(missing.items()),
        )

    def close(self) -> None:
        return None

    def _columns(self) -> tuple[GpuColumns | None, dict[str, str]]:
        text = fetch.get(self._url, deadline_s=self._deadline_s) if self._url else fetch.file(self._file)
        samples = prom_text.parse(text.body, max_bytes=MAX_BYTES, max_samples=MAX_SAMPLES)
        old = self._drop_old(samples)
        gpu, missing = dcgm_text.columns(samples, self._units, self._host)
        if old:
            missing["old"] = f"{old} samples are more than {self._stale_s:g} s older than the newest and are not used"
        if (problem := samples.problem()) is not None:
            missing["text"] = problem
        if gpu is None and not samples:
            missing.setdefault("gpus", "it holds no metric; is this an exporter's metrics path?")
        if gpu is not None:
            self._capability = dcgm_fields.capability(gpu)
        return gpu, missing

    def _nothing(self, missing: dict[str, str]) -> str:
        why = "; ".join(missing.values()) or "it holds no series of DCGM"
        return f"{self._url or self._file} names no GPU: {why}"

    def _drop_old(self, samples: prom_text.Samples) -> int:
        """Takes out what a federating Prometheus repeats of series that have ended: only it gives time stamps."""
        newest_ms = max((s.ts_ms for s in samples if s.ts_ms is not None), default=None)
        self._newest_ms = newest_ms
        if newest_ms is None:
            return 0
        bound_ms, before = newest_ms - self._stale_s * 1000, len(samples)
        samples[:] = [s for s in samples if s.ts_ms is None or s.ts_ms >= bound_ms]
        return before - len(samples)

    def _moves(self, gpu: GpuColumns) -> None:
        """Refuses a live text whose counters and time stamps stand: its gauges are as old as they are."""
        if not self._url or (gpu.energy_mj is None and self._newest_ms is None):
            return
        now, seen = self._monotonic(), (gpu.uuid, gpu.energy_mj, self._newest_ms)
        if self._energy is None or self._energy[0] != seen:
            self._energy = (seen, now)
        elif (age_s := now - self._energy[1]) > self._stale_s:
            raise SourceError(
                f"{self._url} has repeated the same energy counters for {age_s:.0f} s (bound {self._stale_s:g} s): "
                "it stands still; restart the exporter"
            )
