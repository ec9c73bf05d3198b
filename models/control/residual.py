"""How well the model predicts an engine: time and power of the last window against what was measured.

The controller's own learning (`learn.learn`) keeps its errors to itself; here is the same prediction for eyes outside:
metrics, drift detection in the stream, and a count of bad windows that a window which says nothing does not clear.
Power gets a ratio of its own, learned with forgetting: watts carry a board's spread, its firmware and its cooling.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, isnan, log
from typing import Final

from models.control.equations import Plant, board_w, iteration_s, under_limit
from models.control.learn import BAD_LOG, bad_log, bounded, room_of
from models.control.memory import S_CHUNK, S_DECODE, S_PREFILL, Load
from models.control.types import Window

SURE_LOG: Final = 0.05
DOUBT_LOG: Final = 0.25  # how far the two clocks of a window may be apart before nothing is learned from it
MOST_S: Final = 1e9
POWER_GAIN: Final = 0.05  # a window's weight: about twenty windows are remembered
BAD_WINDOWS: Final = 3  # in a row; one that is twice as far off as a bad one counts for two


@dataclass(frozen=True, slots=True)
class Predicted:
    """One window as the model sees it. `clear`: its mean can be judged, no part of a chunk is in it."""

    gap_s: float
    full_s: float  # of a full mixed iteration: nothing takes longer
    gpu_w: float  # mean of one GPU, its own ratio left out
    clear: bool
    other_s: float  # the gap, had the window been as long as its other clock says
    bad_log: float = BAD_LOG  # from which distance on it was no prediction

    @property
    def sure(self) -> bool:
        """Whether both clocks lead to the same prediction."""
        return abs(log(self.other_s / self.gap_s)) <= SURE_LOG

    def nearest(self, mean_s: float) -> float | None:
        """The prediction to hold a measured gap to; None inside of what is not sure: that says nothing."""
        if self.sure:
            return self.gap_s
        low, high = min(self.gap_s, self.other_s), max(self.gap_s, self.other_s)
        return low if mean_s < low else high if mean_s > high else None


def doubtful(window: Window | None) -> bool:
    """Whether what was prefilled was prefilled in a time that nobody knows."""
    if window is None or not window.prompt_tokens > 0.0:
        return False
    one, other = time_of(window.stamped_s), time_of(window.engine_s)
    if window.stamped_s is None:
        return True
    return one is not None and other is not None and abs(log(other / one)) > DOUBT_LOG


def time_of(seconds: float | None) -> float | None:
    """A length of time that can be."""
    return seconds if seconds is not None and 0.0 < seconds <= MOST_S else None


def predict(p: Plant, memory: list[float], load: Load, span_s: float, other_s: float | None = None) -> Predicted | None:
    """The last window's prediction; None where there is nothing to predict or nothing to hold it to.

    `other_s`: its length by another clock. Prefill takes a share of the window, so its length decides what is expected.
    """
    if load.running <= 0.0 or isnan(load.prefilled) or span_s <= 0.0:
        return None
    if not (isfinite(load.mean_s) and load.mean_s > 0.0):
        return None
    room = room_of(p, memory[S_CHUNK], load.running)
    _, mixed, mixed_w = under_limit(p, load.x, load.running, load.kv, room, p.limit_w)
    decode = iteration_s(p, load.x, load.running, load.kv, 0.0)
    decode_w = board_w(p, load.x, load.running, load.kv, 0.0, decode)
    decode_s, mixed_s = _parts(memory, load, room, span_s, decode, mixed)
    gap = decode_s + mixed_s
    other = gap if other_s is None else sum(_parts(memory, load, room, other_s, decode, mixed))
    clear = load.prefilled <= 0.0 or load.prefilled >= 2.0 * room
    gpu_w = (decode_s * decode_w + mixed_s * mixed_w) / gap
    return Predicted(gap, memory[S_PREFILL] * mixed, gpu_w, clear, other, bad_log(memory))


def _parts(
    memory: list[float], load: Load, room: float, span_s: float, decode: float, mixed: float
) -> tuple[float, float]:
    """What pure decoding and mixed iterations add to the mean gap of a window of this length."""
    share = min(1.0, load.prefilled / room * load.mean_s / span_s)
    return (1.0 - share) * memory[S_DECODE] * decode, share * memory[S_PREFILL] * mixed


class Residual:
    """One engine's newest errors (measured / predicted - 1; None = no window could be judged), and what they add up to.

    `drifted`: the newest window was one too many that the model did not predict.
    """

    def __init__(self) -> None:
        self.power_ratio = 1.0
        self._bad = 0
        self.forget()

    def forget(self) -> None:
        """There is no newest window."""
        self.time_error: float | None = None
        self.power_error: float | None = None
        self.drifted = False

    def observe(self, predicted: Predicted, load: Load, *, settled: bool) -> None:
        """Judges one window, then learns its power. `settled` False: too early, or calibrating: it counts as no drift.

        A window that cannot be judged leaves the count of bad ones where it is.
        """
        expected_s = predicted.nearest(load.mean_s) if predicted.clear else None
        if expected_s is not None:
            self.time_error = load.mean_s / expected_s - 1.0
            if predicted.sure and isfinite(load.watts) and load.watts > 0.0:
                ratio = load.watts / predicted.gpu_w
                self.power_error = ratio / self.power_ratio - 1.0
                self.power_ratio += POWER_GAIN * (bounded(ratio) - self.power_ratio)
        weight = self._weight(predicted, load, expected_s)
        if weight is None:
            return
        self._bad = self._bad + weight if weight and settled else 0
        if self._bad >= BAD_WINDOWS:
            self._bad, self.drifted = 0, True

    def _weight(self, predicted: Predicted, load: Load, expected_s: float | None) -> int | None:
        """How bad a window is: 0 good, 1 or 2 bad, None unknown."""
        late = isfinite(load.tail_s) and load.tail_s > 0.0 and log(load.tail_s / predicted.full_s) > predicted.bad_log
        if expected_s is None:
            return 1 if late else None
        off = abs(log(load.mean_s / expected_s))
        return 2 if off > 2.0 * BAD_LOG else 1 if off > predicted.bad_log or late else 0
