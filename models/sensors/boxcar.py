"""Window, shape and lag of a sensor, from its updates beside a faster reference: a meter, or the edges of a known load.

Two shapes are tried: a boxcar (plain mean over the window) and an exponential (a low-pass; its `window_s` is twice its
time constant, so that both shapes have the same mean age). Without a reference neither can be known from the readings
alone; then they stay None.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.sensors.types import Calibration, Floats

LEAST_UPDATES = 12
LEVELS_APART = 0.2  # a gain needs readings at levels at least this far apart, as a share of the higher one
QUIET_RATIO = 0.1  # a window in which the reference moves less than this is fit for calibration
LOOK_BACK = (5.0, 3.0, 2.0, 1.5, 1.0)  # quiet windows before an update, the longest that enough updates have
PLAUSIBLE = (0.75, 1.33)  # of a power sensor's gain; vendors state 5 %
UNEXPLAINED = 0.2  # of the readings' standard deviation
LEAST_INSIDE = 0.5  # of the updates must lie in the reference, or wide windows would choose their own data
LEAST_QUIET = 4  # updates of one level
STEP_S = 0.001  # grid on which the exponential is computed
Shape = Literal["boxcar", "exponential"]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Boxcar:
    """The window and lag that explain the updates best, and what they leave unexplained."""

    shape: Shape
    window_s: float
    lag_s: float
    rmse_w: float
    gain: float
    offset_w: float


class Reference:
    """A reference power signal with its running integral, so that the mean over any window is one subtraction."""

    def __init__(self, time_s: Floats, power_w: Floats) -> None:
        good = np.isfinite(time_s) & np.isfinite(power_w)
        order = np.argsort(time_s[good], kind="stable")
        self.time_s, self.power_w = time_s[good][order], power_w[good][order]
        steps = np.diff(self.time_s) * (self.power_w[1:] + self.power_w[:-1]) / 2
        self._joules = np.concatenate([[0.0], np.cumsum(steps)])
        squares = np.diff(self.time_s) * (self.power_w[1:] ** 2 + self.power_w[:-1] ** 2) / 2
        self._squares = np.concatenate([[0.0], np.cumsum(squares)])

    def energy_j(self, start_s: float, end_s: float) -> float:
        """Joules between two instants inside the reference."""
        return float(np.diff(np.interp([start_s, end_s], self.time_s, self._joules))[0])

    def covers(self, start_s: Floats, end_s: Floats) -> Bools:
        """Which windows lie wholly inside the reference."""
        return np.asarray((start_s >= self.time_s[0]) & (end_s <= self.time_s[-1]), dtype=np.bool_)

    def mean_w(self, start_s: Floats, end_s: Floats) -> Floats:
        """Mean watts of each window."""
        joules = np.interp(end_s, self.time_s, self._joules) - np.interp(start_s, self.time_s, self._joules)
        return np.asarray(joules / (end_s - start_s), dtype=np.float64)

    def spread_w(self, start_s: Floats, end_s: Floats) -> Floats:
        """Standard deviation of the signal inside each window."""
        squares = np.interp(end_s, self.time_s, self._squares) - np.interp(start_s, self.time_s, self._squares)
        variance = squares / (end_s - start_s) - self.mean_w(start_s, end_s) ** 2
        return np.asarray(np.sqrt(np.maximum(variance, 0.0)), dtype=np.float64)

    def shaped(self, window_s: float, shape: Shape) -> Callable[[Floats], Floats]:
        """What a sensor of that window and shape would show at given instants."""
        if shape == "boxcar":
            return lambda end_s: self.mean_w(end_s - window_s, end_s)
        step_s = max(STEP_S, window_s / 50)
        grid = np.arange(self.time_s[0], self.time_s[-1], step_s)
        if len(grid) < 2:
            return lambda end_s: np.full(len(end_s), np.nan)
        level = self.mean_w(grid[:-1], grid[1:])
        kernel = np.exp(-np.arange(0.0, 4.0 * window_s, step_s) / (window_s / 2))
        padded = np.concatenate([np.full(len(kernel) - 1, level[0]), level])
        filtered = np.convolve(padded, kernel / kernel.sum(), mode="valid")
        return lambda end_s: np.asarray(np.interp(end_s, grid[1:], filtered), dtype=np.float64)

    def shaped_w(self, end_s: Floats, window_s: float, shape: Shape) -> Floats:
        """The same, at once."""
        return self.shaped(window_s, shape)(end_s)


def from_edges(edge_s: Floats, *, start_s: float, end_s: float) -> Reference:
    """A load that is off before the first edge and changes at each: as a signal of 0 and 1, in place of watts.

    What comes after an unpaired last edge is not known: the reference ends there.
    """
    edges = np.unique(edge_s[(edge_s > start_s) & (edge_s < end_s)])
    if len(edges) % 2:
        edges, end_s = edges[:-1], float(edges[-1])
    level = np.arange(len(edges)) % 2
    times = np.concatenate([[start_s], np.repeat(edges, 2), [end_s]])
    levels = np.concatenate([[0.0], np.stack([level, 1 - level], axis=1).ravel(), [0.0]])
    return Reference(times, levels)


def fit(
    time_s: Floats, value_w: Floats, reference: Reference, *, period_s: float, gains: tuple[float, float] = PLAUSIBLE
) -> Boxcar | None:
    """The best shape, window (up to ten periods) and lag; None when the data do not show them.

    Too few updates inside the reference, readings or a reference that hardly move, and a best fit that leaves a fifth
    of the readings' movement unexplained show nothing. Gains outside `gains` are not tried: a wide window explains flat
    readings better than a gain of nearly nothing does.
    """
    if len(time_s) < LEAST_UPDATES or len(reference.time_s) < LEAST_UPDATES:
        return None
    low, high = float(np.min(reference.power_w)), float(np.max(reference.power_w))
    if high - low < LEVELS_APART * high:
        return None
    windows, lags = _windows(period_s), period_s * np.arange(-0.1, 0.61, 0.05)
    shapes: tuple[Shape, Shape] = ("boxcar", "exponential")
    found = [_search(time_s, value_w, reference, windows, lags, shape, gains) for shape in shapes]
    best = min((one for one in found if one is not None), key=lambda one: one.rmse_w, default=None)
    if best is None:
        return None
    fine = best.window_s * np.linspace(0.7, 1.3, 13)
    lags = best.lag_s + period_s * np.linspace(-0.05, 0.05, 11)
    best = _search(time_s, value_w, reference, fine, lags, best.shape, gains) or best
    return best if best.rmse_w <= UNEXPLAINED * float(np.std(value_w)) else None


def _windows(period_s: float) -> Floats:
    return np.asarray(period_s * np.concatenate([np.arange(0.05, 1.01, 0.05), [1.5, 2.0, 3.0, 5.0, 10.0]]))


def _search(
    time_s: Floats,
    value_w: Floats,
    reference: Reference,
    windows: Floats,
    lags: Floats,
    shape: Shape,
    gains: tuple[float, float],
) -> Boxcar | None:
    best: Boxcar | None = None
    for window_s in windows.tolist():
        shown = reference.shaped(window_s, shape)
        for lag_s in lags.tolist():
            found = _explained(time_s - lag_s, value_w, reference, window_s, shown, gains)
            if found is not None and (best is None or found[0] < best.rmse_w):
                best = Boxcar(shape, window_s, lag_s, *found)
    return best


def _explained(
    end_s: Floats,
    value_w: Floats,
    reference: Reference,
    window_s: float,
    shown: Callable[[Floats], Floats],
    gains: tuple[float, float],
) -> tuple[float, float, float] | None:
    """(what is left, gain, offset) of the best straight line from the shaped reference to the readings."""
    inside = reference.covers(end_s - window_s, end_s)
    if inside.sum() < max(LEAST_UPDATES, LEAST_INSIDE * len(end_s)):
        return None
    x, y = shown(end_s[inside]), value_w[inside]
    spread = float(np.var(x))
    gain = float(np.mean((x - x.mean()) * (y - y.mean()))) / spread if spread > 0 else 1.0
    gain = min(max(gain, gains[0]), gains[1])
    offset = float(y.mean() - gain * x.mean())
    # A tenth of the updates may be late or torn; they must not choose the window.
    kept = np.sort(np.abs(gain * x + offset - y))[: max(LEAST_UPDATES, int(0.9 * len(y)))]
    return float(np.sqrt(np.mean(kept**2))), gain, offset


def calibrate(
    time_s: Floats, value_w: Floats, reference: Reference, *, window_s: float, lag_s: float, origin: str
) -> Calibration | None:
    """Gain and offset where the reference had been quiet for some windows, so that neither timing nor shape blur them.

    With one level only, the gain alone is found (offset 0); None when there is no quiet stretch at all.
    """
    end_s = time_s - lag_s
    inside = reference.covers(end_s - LOOK_BACK[0] * window_s, end_s)
    if inside.sum() < LEAST_UPDATES:
        return None
    end_s, value_w = end_s[inside], value_w[inside]
    level = reference.mean_w(end_s - 0.5 * window_s, end_s)
    apart = np.ptp(level) >= LEVELS_APART * np.max(level)
    middle = (np.min(level) + np.max(level)) / 2
    groups = [level <= middle, level > middle] if apart else [np.full(len(level), True)]
    points = [_quiet_level(end_s[group], value_w[group], reference, window_s) for group in groups]
    known = [point for point in points if point is not None]
    if len(known) == 2:
        (x0, y0, s0), (x1, y1, s1) = known
        gain = (y1 - y0) / (x1 - x0)
        return Calibration(gain, y0 - gain * x0, max(s0, s1), origin) if _plausible(gain) else None
    if not known:
        return None
    x, y, scatter = known[0]
    return (
        Calibration(y / x, 0.0, scatter, f"{origin} (one power level only: gain without offset)") if y > 0 < x else None
    )


def _plausible(gain: float) -> bool:
    return PLAUSIBLE[0] <= gain <= PLAUSIBLE[1]


def _quiet_level(
    end_s: Floats, value_w: Floats, reference: Reference, window_s: float
) -> tuple[float, float, float] | None:
    """(reference, reading, scatter) of one level, after the longest quiet stretch that enough updates have."""
    for look_back in LOOK_BACK:
        start_s = end_s - look_back * window_s
        mean = reference.mean_w(start_s, end_s)
        quiet = reference.spread_w(start_s, end_s) <= QUIET_RATIO * np.abs(mean)
        if quiet.sum() >= LEAST_QUIET:
            x, y = float(np.median(mean[quiet])), float(np.median(value_w[quiet]))
            return x, y, 1.4826 * float(np.median(np.abs(value_w[quiet] - y)))
    return None
