"""A batch of nodes as arrays: features of all GPUs, their peers' medians, and the inputs that the detectors take.

Arithmetic on decoded records; no state, no Kafka.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.anomaly.half_space import ALONE
from models.anomaly.metrics import METRICS
from models.anomaly.peers import Peers
from streams.contract.records import EngineReading, NodeFeatures

Floats = NDArray[np.float64]
USED: Final = ("power_w_mean_60s", "sm_mhz_mean_60s", "util_ratio_mean_60s", "temp_slope_c_per_min", "waste_w")
COLUMN: Final = {name: number for number, name in enumerate(USED)}
NO_WORKLOAD: Final = "none"


class Batch:
    """Rows are the GPUs of all nodes, in order; `owner` says which node and place a row is."""

    def __init__(self, nodes: Sequence[NodeFeatures]) -> None:
        self.nodes = nodes
        self.owner = [(node, i) for node in nodes for i in range(len(node.uuid))]
        self.engine: list[EngineReading | None] = []
        group: list[int] = []
        engines = 0
        for node in nodes:
            serves = {uuid: (engines + k, e) for k, e in enumerate(node.engines) for uuid in e.gpu_uuid}
            engines += len(node.engines)
            found = [serves.get(uuid) for uuid in node.uuid]
            group += [-1 if one is None else one[0] for one in found]
            self.engine += [None if one is None else one[1] for one in found]
        self.raw = np.concatenate([_columns(node) for node in nodes])
        self.median = Peers(np.array(group, dtype=np.int64)).median(self.raw)

    def metrics(self) -> Floats:
        """(rows, METRICS), NaN = unknown."""
        out = np.full((len(self.owner), len(METRICS)), np.nan)
        for number, metric in enumerate(METRICS):
            column = COLUMN[metric.feature]
            value, middle = self.raw[:, column], self.median[:, column]
            if metric.peers == "ratio":
                out[:, number] = _ratio(value, middle)
            else:
                out[:, number] = value - middle if metric.peers == "difference" else value
        return out

    def beside_peers(self) -> Floats:
        """(rows, half_space.BESIDE_PEERS in its order), NaN where there are no peers."""
        power, sm, util, slope = range(4)
        return np.stack(
            [
                _ratio(self.raw[:, power], self.median[:, power]),
                _ratio(self.raw[:, sm], self.median[:, sm]),
                self.raw[:, util] - self.median[:, util],
                self.raw[:, slope] - self.median[:, slope],
            ],
            axis=1,
        )

    def alone(self) -> Floats:
        """(rows, ALONE): the plain features."""
        return self.raw[:, [COLUMN[name] for name in ALONE]]

    def class_of(self, row: int) -> str:
        """GPU model and workload class: whose forest judges the row."""
        (node, i), engine = self.owner[row], self.engine[row]
        return f"{node.name[i] if node.name else None}/{engine.workload if engine else NO_WORKLOAD}"


def _ratio(value: Floats, middle: Floats) -> Floats:
    out = np.full(len(value), np.nan)
    np.divide(value, middle, out=out, where=middle > 0.0)
    return out


def _columns(node: NodeFeatures) -> Floats:
    unknown = (None,) * len(node.uuid)
    return np.array([node.features.get(name, unknown) for name in USED], dtype=np.float64).T
