"""State of one partition for the anomaly job: GPUs by row number, detectors, and their form as numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec
import numpy as np

from models.anomaly.confirm import KofN, Silence
from models.anomaly.half_space import ALONE, BESIDE_PEERS, Forest, ForestState
from models.anomaly.metrics import METRICS
from models.anomaly.robust import RobustZ
from models.efficiency.model_drift import ModelDrift
from models.efficiency.regression import EfficiencyRegression, RegressionState
from streams.jobs.anomaly_batch import NO_WORKLOAD

VERSION: Final = 1
DRIFT_NS: Final = 60 * 10**9  # a model that goes on missing is said again before its freeze ends
SILENCE_NS: Final = 300 * 10**9  # one fault, one verdict in five minutes
LARGEST_BYTES: Final = 900_000  # Kafka's default bound on a message is 1 MB
GONE_NS: Final = 600 * 10**9  # a GPU silent for ten minutes gives its row away
log = logging.getLogger(__name__)


class Saved(msgspec.Struct):
    """A partition's snapshot: parameters and numbers only."""

    baseline: dict[str, list[list[float | None]]] = {}  # GPU -> per metric [median, scale]
    forests: dict[str, ForestState] = {}
    regressions: dict[str, RegressionState] = {}


@dataclass(slots=True)
class EngineCounters:
    """The last counters of an engine: rates need two readings."""

    ts_ns: int
    generation: int
    prompt: int


@dataclass(slots=True)
class PartitionState:
    """Everything that the detectors remember of one partition."""

    robust: RobustZ = field(default_factory=lambda: RobustZ(METRICS))
    row_of: dict[str, int] = field(default_factory=dict)
    seen_ns: dict[str, int] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)
    judged_ns: dict[str, int] = field(default_factory=dict)  # node -> window end of its last evaluation
    forests: dict[str, Forest] = field(default_factory=dict)
    regressions: dict[str, EfficiencyRegression] = field(default_factory=dict)
    counters: dict[str, EngineCounters] = field(default_factory=dict)
    rare: KofN = field(default_factory=lambda: KofN(4, 5))
    strange: KofN = field(default_factory=lambda: KofN(4, 5))
    silence: Silence = field(default_factory=lambda: Silence(SILENCE_NS))
    drifts: dict[str, ModelDrift] = field(default_factory=dict)  # engine -> errors of its controller
    drifting: Silence = field(default_factory=lambda: Silence(DRIFT_NS))
    offsets: dict[str, int] = field(default_factory=dict)
    newest_ns: int = 0
    changed: bool = False

    def rows(self, uuids: Iterable[str], now_ns: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        """Row numbers of GPUs, new ones included."""
        out = []
        for uuid in uuids:
            row = self.row_of.get(uuid)
            if row is None:
                row = self.row_of[uuid] = self.free.pop() if self.free else len(self.row_of)
            self.seen_ns[uuid] = now_ns
            out.append(row)
        self.robust.reserve(max(out, default=-1) + 1)
        return np.array(out, dtype=np.intp)

    def prune(self) -> None:
        """Gives the rows of GPUs that are gone to others, and forgets silences that are over."""
        gone = [u for u, seen in self.seen_ns.items() if seen < self.newest_ns - GONE_NS]
        for uuid in gone:
            del self.seen_ns[uuid]
            self.free.append(self.row_of.pop(uuid))
        if gone:
            self.robust.forget(np.array(self.free[-len(gone) :], dtype=np.intp))
        self.silence.prune(self.newest_ns)
        self.drifting.prune(self.newest_ns)
        if len(self.drifts) > 2 * len(self.row_of) + 64:  # names that change with each start
            self.drifts.clear()

    def saved(self) -> Saved:
        """The snapshot, cut down to what one message holds."""
        uuids = list(self.row_of)
        rows = np.array([self.row_of[u] for u in uuids], dtype=np.intp)
        self.robust.reserve(len(uuids))
        baseline = self.robust.baseline(rows)
        pairs = {
            uuid: [[_number(v) for v in pair] for pair in metrics]
            for uuid, metrics in zip(uuids, baseline, strict=True)
            if np.isfinite(metrics).any()
        }
        forests = {name: forest.state() for name, forest in self.forests.items() if forest.windows}
        out = Saved(pairs, forests, {name: r.state() for name, r in self.regressions.items()})
        if len(msgspec.json.encode(out)) > LARGEST_BYTES:
            log.warning("%d GPUs are too many for one snapshot: their baselines are left out", len(pairs))
            out.baseline = {}
        return out

    def recover(self, saved: Saved, now_ns: int) -> None:
        """Takes a snapshot in. Raises ValueError for a state that does not fit this release."""
        for name, forest in saved.forests.items():
            self.forests[name] = Forest(ALONE if name.endswith(f"/{NO_WORKLOAD}") else BESIDE_PEERS)
            self.forests[name].restore(forest)
        for name, regression in saved.regressions.items():
            self.regressions[name] = EfficiencyRegression()
            self.regressions[name].restore(regression)
        if saved.baseline:
            rows = self.rows(saved.baseline, now_ns)
            self.robust.restore(rows, np.array(list(saved.baseline.values()), dtype=np.float64))


def _number(value: float) -> float | None:
    return float(f"{value:.5g}") if np.isfinite(value) else None
