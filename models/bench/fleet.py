"""How large a fleet is for its own peak: one stated rule, the same for every policy and every trace.

Replicas = ceil(peak work / (SHARE x prefill rate of one replica at default clocks)), at least LEAST; work counts a
prompt token once and an output token OUTPUT_WEIGHT times (a decode step shared by about 64 sequences costs that much),
and the peak is the highest mean of any WINDOW_S (a curve is looked at minute by minute, recorded requests at every
arrival). On the Azure 2024 week at half scale: 12 (conversation) and 17 (code).
"""

from __future__ import annotations

from math import ceil
from typing import Final

import numpy as np

from models.bench.load import F8, Curve, Stream
from models.control.equations import Plant
from models.control.steady import Flow, top_rate

SHARE: Final = 0.60
OUTPUT_WEIGHT: Final = 4.0
WINDOW_S: Final = 600.0
LEAST: Final = 4
MOST: Final = 20  # larger curves are thinned to fit; recorded requests are never thinned


def replica_rate(plant: Plant) -> float:
    """Prompt tokens per second that one replica prefills at default clocks beside eight running sequences."""
    return top_rate(plant, Flow(0.0, 0.0, 1500.0, 1.0, 1.0), plant.chunk_tokens, 8.0)


def size(peak_work: float, plant: Plant) -> int:
    """Replicas for a peak of weighted tokens per second."""
    return max(LEAST, ceil(peak_work / (SHARE * replica_rate(plant)) - 1e-9))


def curve_work(curve: Curve) -> float:
    """Weighted tokens per second at the curve's highest ten minutes."""
    prompt, output = curve.lengths.means()
    grid = np.arange(curve.t_s[0], max(curve.t_s[-1], curve.t_s[0] + WINDOW_S), 60.0)
    rate = curve.at(grid)
    width = int(WINDOW_S / 60.0)
    means = np.convolve(rate, np.ones(width) / width, mode="valid") if len(rate) >= width else rate
    return float(means.max()) * (prompt + OUTPUT_WEIGHT * output)


def stream_work(stream: Stream) -> float:
    """The same of recorded requests, wherever their highest ten minutes begin."""
    window = min(WINDOW_S, max(stream.seconds, 1.0))
    return _highest(stream.arrival_s, stream.prompt + OUTPUT_WEIGHT * stream.output, window) / window


def _highest(arrival_s: F8, work: F8, window_s: float) -> float:
    """Most work that arrives within any window_s, its end left out: such a window can begin at an arrival."""
    before = np.concatenate([[0.0], np.cumsum(work)])
    ends = np.searchsorted(arrival_s, arrival_s + window_s, side="left")
    return float((before[ends] - before[:-1]).max())


def scale_for(curve: Curve, plant: Plant) -> float:
    """Share of a curve that a fleet of MOST replicas takes, as 1/2, 1/4, ... of it; 1 when the whole fits."""
    scale = 1.0
    while size(curve_work(curve) * scale, plant) > MOST:
        scale *= 0.5
    return scale
