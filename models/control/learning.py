"""Two learned ratios, decode and prefill: measured iteration time over predicted. One ratio cannot repair both.

Learned from the mean time between tokens (decode) and from its 99th percentile, which is one mixed iteration with a
full prefill chunk (prefill). Bounded, and quick to become careful: prefill rises fast and falls slowly.
"""

from __future__ import annotations

from typing import Final

RATIO_MIN: Final = 0.5
RATIO_MAX: Final = 2.0
_GAIN: Final = 0.1  # forgets in about ten windows
_GAIN_DOWN: Final = 0.03  # prefill: a window without a full chunk looks better than it is


class Ratios:
    """Factors on the predicted decode and mixed iteration times."""

    __slots__ = ("decode", "prefill")

    def __init__(self) -> None:
        self.decode = 1.0
        self.prefill = 1.0

    def learn_mean(self, measured_s: float, *, decode_s: float, mixed_s: float, mixed_share: float) -> None:
        """One window: measured mean, predicted times and the share of iterations that were mixed. Moves both ratios.

        Normalised least mean squares on measured = decode * (1 - share) * decode_s + prefill * share * mixed_s.
        """
        a, b = (1.0 - mixed_share) * decode_s, mixed_share * mixed_s
        error = measured_s - self.decode * a - self.prefill * b
        step = _GAIN * error / (a * a + b * b)
        self.decode = _bounded(self.decode + step * a)
        self.prefill = _bounded(self.prefill + step * b)

    def learn_tail(self, measured_s: float, *, mixed_s: float) -> None:
        """One window that held full prefill chunks: its 99th percentile is one mixed iteration."""
        error = measured_s / mixed_s - self.prefill
        self.prefill = _bounded(self.prefill + (_GAIN if error > 0.0 else _GAIN_DOWN) * error)


def _bounded(ratio: float) -> float:
    return min(RATIO_MAX, max(RATIO_MIN, ratio))
