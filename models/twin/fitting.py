"""Least squares for many small problems at once, with a Gaussian prior, and the prior learned from such fits.

Levenberg-Marquardt in numpy over all problems in lock step: 60 jobs of 6 parameters take a twentieth of a second, so
that the parameters which the jobs share can be searched around it. It must not know what is being fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Residuals = Callable[[Array], Array]  # (problems, parameters) -> (problems, residuals)

_STEP: Final = 1e-4
_LONGEST: Final = 1.5  # of one step in a (log or logit) parameter
PRIOR_WEIGHT: Final = 4.0  # fits that the floor of a learned prior counts for


@dataclass(frozen=True, slots=True)
class Prior:
    """What is believed of the parameters before a fit."""

    mean: Array
    covariance: Array

    def whitener(self) -> Array:
        """W with (p - mean) @ W of unit variance."""
        return np.asarray(np.linalg.cholesky(np.linalg.inv(self.covariance)), dtype=np.float64)


def diagonal(mean: Array, sigma: Array) -> Prior:
    """A prior of independent parameters."""
    return Prior(np.asarray(mean, dtype=np.float64), np.diag(np.asarray(sigma, dtype=np.float64) ** 2))


def solve(residuals: Residuals, start: Array, *, iterations: int = 40) -> tuple[Array, Array]:
    """Parameters and sum of squares of every problem."""
    p, r = start.copy(), residuals(start)
    cost = np.einsum("ij,ij->i", r, r)
    damp = np.full(len(p), 1e-2)
    eye = np.eye(p.shape[1])
    for _ in range(iterations):
        jac = _jacobian(residuals, p, r)
        normal = np.einsum("nij,nik->njk", jac, jac)
        slope = np.einsum("nij,ni->nj", jac, r)
        scale = np.einsum("njj->nj", normal) + 1e-6
        step = -np.linalg.solve(normal + (damp[:, None] * scale)[:, :, None] * eye, slope[:, :, None])[:, :, 0]
        tried = p + np.clip(step, -_LONGEST, _LONGEST)
        new = residuals(tried)
        new_cost = np.einsum("ij,ij->i", new, new)
        better = new_cost < cost
        p, r = np.where(better[:, None], tried, p), np.where(better[:, None], new, r)
        gain = np.where(better, cost - new_cost, 0.0)
        cost = np.where(better, new_cost, cost)
        damp = np.where(better, damp * 0.3, damp * 4.0)
        if float(gain.max()) < 1e-6 and float(damp.min()) > 1e3:
            break
    return p, cost


def best_of(residuals: Residuals, starts: list[Array], *, iterations: int = 40) -> tuple[Array, Array]:
    """The better of several starting points, for each problem on its own."""
    found, cost = solve(residuals, starts[0], iterations=iterations)
    for start in starts[1:]:
        other, other_cost = solve(residuals, start, iterations=iterations)
        better = other_cost < cost
        found, cost = np.where(better[:, None], other, found), np.where(better, other_cost, cost)
    return found, cost


def learn_prior(fitted: Array, *, floor_sigma: Array, spread: Prior | None = None) -> Prior:
    """Median and covariance of fits, pulled towards a floor so that a few alike jobs do not make a certainty."""
    mean = np.median(fitted, axis=0)
    away = fitted - mean
    if spread is not None:
        reach = 3.0 * np.sqrt(np.diag(spread.covariance))
        away = np.clip(away, -reach, reach)
    floor = np.diag(floor_sigma**2)
    covariance = (away.T @ away + PRIOR_WEIGHT * floor) / (len(fitted) + PRIOR_WEIGHT)
    return Prior(mean, covariance)


def _jacobian(residuals: Residuals, p: Array, r: Array) -> Array:
    jac = np.empty((*r.shape, p.shape[1]))
    for column in range(p.shape[1]):
        moved = p.copy()
        moved[:, column] += _STEP
        jac[:, :, column] = (residuals(moved) - r) / _STEP
    return jac
