"""The source of one serving engine: its metrics text by URL or file -> one EngineReading per model or rank.

It asks and answers in the caller's time; the agent reads engines through `poll`, which asks in the background. It keeps
the last cumulative histograms, because the contract wants what happened between two readings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Final
from urllib.parse import urlsplit

from agents.node.errors import SettingsError, SourceError
from agents.node.sources import dcgm_fields, fetch, prom_text
from agents.node.sources.base import Probe, Reading
from agents.node.sources.engines.cumulative import delta
from agents.node.sources.engines.dialect import FIELDS, HISTOGRAMS, Dialect, Values, read, relevant
from agents.node.sources.prom_text import Sample
from streams.contract.records import EngineReading, GpuColumns, Histogram

CAPABILITY: Final = ("engine",)
MAX_SAMPLES: Final = 50_000
MAX_BYTES: Final = 4 * 2**20  # an engine's text has some 100 kB
DEADLINE_S: Final = 0.8  # for the whole answer; below the sample interval
STAMP_SLACK_MS: Final = 5_000.0  # an engine's own stamp further ahead of us is another clock's, not news
UNSPECIFIED: Final = "unspecified"
_INTEGERS: Final = tuple(name for name in FIELDS if name != "kv_use_ratio")


@dataclass(slots=True)
class _Before:
    """What was last handed out of one engine."""

    values: Values
    ts_ns: int
    moved_ns: int  # when a counter last moved


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One answer of an engine: everything in it, and when it was given."""

    values: tuple[Values, ...]
    ts_ns: int
    problem: str | None = None
    gpu: GpuColumns | None = None  # where the engine measures its GPUs itself
    gpu_missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What the settings say of an engine; "" and () = derived from address and text, or unknown."""

    name: str = ""
    stack: str = ""
    workload: str = ""
    gpus: tuple[str, ...] = field(default=())


class EngineSource:
    """One engine's server.

    Args:
        url: its metrics, http or https; the engine's usual port on this machine when empty.
        file: a recorded text instead.
        name: of the engine, unique in the cluster; derived from the address when empty.
        stack: model x precision x engine x GPU, for learned curves; derived from the model when empty.
        workload: class of its load.
        gpus: UUIDs of its GPUs, or their indices on the node as text.
        since_start: give the first reading's histograms as counted since the engine's start; for a single look.
        deadline_s: for the whole answer.
        get: fetches a URL.
    """

    name: ClassVar[str]
    dialect: ClassVar[Dialect]
    default_url: ClassVar[str]

    def __init__(
        self,
        *,
        url: str = "",
        file: str | Path = "",
        name: str = "",
        stack: str = "",
        workload: str = "",
        gpus: tuple[str, ...] | list[str] = (),
        since_start: bool = False,
        deadline_s: float = DEADLINE_S,
        get: Callable[..., fetch.Text] = fetch.get,
    ) -> None:
        if url and file:
            raise SettingsError(f"source {self.name} has one origin: give url or file, not both")
        usual = urlsplit(self.default_url).path
        self._url, self._file = "" if file else fetch.checked_url(url or self.default_url, usual), file
        self._identity = Identity(name=name, stack=stack, workload=workload, gpus=tuple(map(str, gpus)))
        self._deadline_s, self._get, self._since_start = deadline_s, get, since_start
        self._names: dict[bytes, bool] = {}
        self._before: dict[tuple[str, str, str | None], _Before] = {}

    def probe(self) -> Probe:
        """Whether the engine answers with metrics of its own."""
        try:
            self.snapshot(0)
        except SourceError as error:
            return Probe(False, str(error))
        return Probe(True, None, CAPABILITY)

    def read(self, now_ns: int) -> Reading:
        """Asks now. Raises SourceError with what is wrong with the answer."""
        return self.reading(self.snapshot(now_ns), now_ns)

    def close(self) -> None:
        """Forgets what it counted from."""
        self._before.clear()

    # --- asking ------------------------------------------------------------------------------------------------

    def snapshot(self, now_ns: int) -> Snapshot:
        """Everything that the engine says now; touches no state, so that any thread may call it."""
        if self._url:
            text = self._get(self._url, deadline_s=self._deadline_s, max_bytes=MAX_BYTES)
        else:
            text = fetch.file(self._file, max_bytes=MAX_BYTES)
        samples = self._samples(text.body)
        values = read(self.dialect, samples)
        gpu, gpu_missing = self._gpus(samples)
        if not values and gpu is None:
            raise SourceError(
                f"{self._url or self._file} has no metrics of {self.dialect.title} among {len(samples)} samples; "
                f"is it the metrics address of a {self.dialect.title} server?"
            )
        problem = samples.problem() if isinstance(samples, prom_text.Samples) else None
        return Snapshot(tuple(values), now_ns, problem, gpu, gpu_missing)

    def _gpus(self, samples: Sequence[Sample]) -> tuple[GpuColumns | None, dict[str, str]]:
        """GPUs that the engine's own text measures, and what is missing of them; most engines measure none."""
        return None, {}

    def _samples(self, text: bytes) -> list[Sample]:
        kept, cut = relevant(self.dialect, text[:MAX_BYTES], self._names)
        found = prom_text.parse(kept, max_bytes=MAX_BYTES, max_samples=MAX_SAMPLES)
        found.cut = found.cut or cut or len(text) > MAX_BYTES
        return found

    # --- handing out -------------------------------------------------------------------------------------------

    def reading(self, snapshot: Snapshot, now_ns: int, *, reader: str = "record") -> Reading:
        """A snapshot as a reading; histograms count since the snapshot that was handed out to this reader before."""
        engines, missing = [], list[tuple[str, str]](snapshot.gpu_missing.items())
        alone = len(snapshot.values) == 1
        for values in snapshot.values:
            engine = self._engine(values, snapshot.ts_ns, alone=alone, reader=reader)
            engines.append(engine)
            missing += [(f"engines[{engine.engine}].{part}", reason) for part, reason in _unknown(engine, values)]
        if snapshot.problem is not None:
            missing.append(("text", snapshot.problem))
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=CAPABILITY if snapshot.gpu is None else (*CAPABILITY, *dcgm_fields.capability(snapshot.gpu)),
            gpu=snapshot.gpu,
            engines=tuple(engines),
            missing=tuple(missing),
        )

    def _engine(self, values: Values, now_ns: int, *, alone: bool, reader: str) -> EngineReading:
        key = (reader, values.model, values.rank)
        before = self._before.get(key)
        ts_ns, moved_ns = self._age(values, before, now_ns)
        by_law = {} if before is None else _by_durations(before, values, ts_ns)
        # The same answer handed out twice: its counts were handed out already, and nothing newer is known.
        again = before is not None and before.ts_ns == ts_ns and before.values is values
        histograms: dict[str, Histogram | None] = {
            name: None if again else self._counted(before, values, name) for name in HISTOGRAMS
        }
        self._before[key] = _Before(values, ts_ns, moved_ns)
        numbers = {**by_law, **{name: value for name, value in values.number.items() if value is not None}}
        return EngineReading(
            engine=self._named(values, alone=alone),
            kind=self.dialect.kind,
            stack=self._identity.stack or f"{values.model or UNSPECIFIED}/{self.dialect.kind}",
            workload=self._identity.workload or UNSPECIFIED,
            gpu_uuid=self._identity.gpus or values.gpu_uuid,
            ts_ns=ts_ns,
            kv_use_ratio=numbers.get("kv_use_ratio"),
            **{name: round(numbers[name]) for name in _INTEGERS if name in numbers},  # type: ignore[arg-type]
            **histograms,  # type: ignore[arg-type]
        )

    def _counted(self, before: _Before | None, now: Values, name: str) -> Histogram | None:
        """What was counted since the reading before, or for a single look since the engine's start."""
        counted = now.histogram.get(name)
        if before is None:
            return delta(counted.empty(), counted) if self._since_start and counted is not None else None
        return delta(before.values.histogram.get(name), counted)

    def _named(self, values: Values, *, alone: bool) -> str:
        parts = [self._identity.name or self._where()]
        if not alone:
            parts.append(values.model or UNSPECIFIED)
        if values.rank is not None:
            parts.append(f"rank{values.rank}")
        return "/".join(parts)

    def _where(self) -> str:
        if self._url:
            parts = urlsplit(self._url)
            return f"{self.dialect.kind}@{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        return f"{self.dialect.kind}@{Path(self._file).name}"

    def _age(self, values: Values, before: _Before | None, now_ns: int) -> tuple[int, int]:
        """(when these numbers were given, when a counter last moved).

        The engine's own stamp counts where it is older than the answer. An engine that says it is busy, whose counters
        move at every step, and whose counters stand, is stuck behind a server that still answers: its numbers are as
        old as the last movement.
        """
        given_ns = now_ns
        if values.ts_ms is not None and values.ts_ms * 1e6 <= now_ns + STAMP_SLACK_MS * 1e6:
            given_ns = min(now_ns, int(values.ts_ms * 1e6))
        if before is None or before.values is values or not (self.dialect.steady and _stuck(before.values, values)):
            return given_ns, given_ns
        return min(given_ns, before.moved_ns), before.moved_ns


def _unknown(engine: EngineReading, values: Values) -> list[tuple[str, str]]:
    """(field, reason) of everything that this reading of an engine does not give."""
    found = [(name, reason) for name, reason in values.missing.items() if getattr(engine, name, None) is None]
    told = "counts since the reading before, and this is the first one or the same answer again"
    return found + [
        (name, told) for name in HISTOGRAMS if getattr(engine, name) is None and values.histogram.get(name) is not None
    ]


def _stuck(before: Values, now: Values) -> bool:
    """Whether the engine says it is busy and counts nothing; of data-parallel cores one such is enough."""
    if any(
        running > 0 and (running, counted) == before.cores.get(core)
        for core, (running, counted) in now.cores.items()
        if len(now.cores) > 1
    ):
        return True
    return bool(now.number.get("running")) and not _moved(before, now)


def _moved(before: Values, now: Values) -> bool:
    """Whether any counter or histogram differs; an engine without any says nothing about being stuck."""
    names = [name for name in now.number if name.endswith("_total") and now.number[name] is not None]
    if not names and all(histogram is None for histogram in now.histogram.values()):
        return True
    return before.histogram != now.histogram or any(before.number.get(n) != now.number[n] for n in names)


def _by_durations(before: _Before, now: Values, now_ns: int) -> dict[str, float]:
    """Mean requests in computation and in the queue since the reading before: their durations over the time passed."""
    elapsed_us = (now_ns - before.ts_ns) / 1e3
    found = {}
    for name, total in (("running", "busy_us_total"), ("waiting", "queued_us_total")):
        was, is_now = before.values.number.get(total), now.number.get(total)
        if was is not None and is_now is not None and is_now >= was and elapsed_us > 0:
            found[name] = float(math.ceil((is_now - was) / elapsed_us))
    return found
