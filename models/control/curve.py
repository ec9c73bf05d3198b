"""A curve of two terms through zero at the reference, and what is believed of such curves before one was measured.

Plain arithmetic for a handful of points: no arrays, no device, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import sqrt


@dataclass(frozen=True, slots=True)
class Curve:
    """y = a u + b u**2 with u the distance from the reference; zero at the reference by construction."""

    reference: float
    a: float
    b: float
    covariance: tuple[float, float, float]  # of (a, a), (a, b), (b, b)

    def at(self, setting: float) -> float:
        u = abs(setting - self.reference)
        return self.a * u + self.b * u * u

    def error(self, setting: float) -> float:
        u = abs(setting - self.reference)
        aa, ab, bb = self.covariance
        return sqrt(max(u * u * aa + 2.0 * u**3 * ab + u**4 * bb, 0.0))


def fit_curve(points: Sequence[tuple[float, int]], values: Sequence[float], *, reference: float, sigma: float) -> Curve:
    """Least squares; each point is (setting, pairs of blocks), a pair having the standard error sigma."""
    s2 = s3 = s4 = t1 = t2 = 0.0
    for (setting, weight), value in zip(points, values, strict=True):
        u = abs(setting - reference)
        s2, s3, s4 = s2 + weight * u**2, s3 + weight * u**3, s4 + weight * u**4
        t1, t2 = t1 + weight * u * value, t2 + weight * u * u * value
    det = s2 * s4 - s3 * s3
    a, b = (t1 * s4 - t2 * s3) / det, (t2 * s2 - t1 * s3) / det
    rest = sum(
        weight * (value - a * abs(setting - reference) - b * (setting - reference) ** 2) ** 2
        for (setting, weight), value in zip(points, values, strict=True)
    )
    free = max(len(points) - 2, 1)
    scale = max(sigma**2, rest / free)  # points further from the curve than their noise: the curve is the worse for it
    return Curve(reference, a, b, (scale * s4 / det, -scale * s3 / det, scale * s2 / det))


@dataclass(frozen=True, slots=True)
class Seen:
    """A measured value at a distance from the reference, with the variance of its error."""

    distance: float
    value: float
    variance: float


@dataclass(frozen=True, slots=True)
class Belief:
    """Curves a u + b u**2 of jobs: mean and covariance of (a, b), and how far single settings lie off their curve."""

    mean: tuple[float, float]
    covariance: tuple[float, float, float]  # of (a, a), (a, b), (b, b)
    scatter: float

    def given(self, seen: Iterable[Seen]) -> Belief:
        """The same after measurements (Bayesian least squares)."""
        aa, ab, bb = _inverse(self.covariance)
        ta, tb = aa * self.mean[0] + ab * self.mean[1], ab * self.mean[0] + bb * self.mean[1]
        for one in seen:
            weight, u = 1.0 / (self.scatter**2 + one.variance), one.distance
            aa, ab, bb = aa + weight * u**2, ab + weight * u**3, bb + weight * u**4
            ta, tb = ta + weight * u * one.value, tb + weight * u * u * one.value
        left = _inverse((aa, ab, bb))
        mean = (left[0] * ta + left[1] * tb, left[1] * ta + left[2] * tb)
        return Belief(mean, left, self.scatter)

    def at(self, distance: float, own: Seen | None = None) -> tuple[float, float]:
        """Mean and variance of one setting, its own measurement taken in when there is one."""
        u, (aa, ab, bb) = distance, self.covariance
        mean = self.mean[0] * u + self.mean[1] * u * u
        variance = aa * u**2 + 2.0 * ab * u**3 + bb * u**4 + self.scatter**2
        if own is None:
            return mean, variance
        weight = 1.0 / variance + 1.0 / own.variance
        return (mean / variance + own.value / own.variance) / weight, 1.0 / weight


def _inverse(matrix: tuple[float, float, float]) -> tuple[float, float, float]:
    aa, ab, bb = matrix
    det = aa * bb - ab * ab
    return bb / det, -ab / det, aa / det
