"""Power of an engine's GPUs against what the engine does: one River regression per stack, with drift detection.

It answers "does this stack still draw what its work explains?". Residuals above their own spread are verdicts after
confirmation; ADWIN on the residuals says when the relation itself has changed, and learning goes on from there. State
is a handful of numbers; the drift detector starts anew after a restart, because its window is only minutes long.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from river import drift, linear_model, optim, preprocessing

INPUTS: Final = ("generation_tokens_per_s", "prompt_tokens_per_s", "running", "util_ratio", "sm_ghz")
WARMUP: Final = 200  # observations before anything is judged
FORGET: Final = 0.01  # weight of the newest residual in the running spread
LEAST_SPREAD: Final = 0.03  # of the prediction: smaller deviations are never strange
LEAST_DRIFT: Final = 0.03  # of the power: a smaller shift of the relation is not worth a verdict
THRESHOLD: Final = 8.0
FAMILIAR: Final = 3.0  # standard deviations of an input within which the relation is known well enough to judge
FARTHEST: Final = 5.0  # inputs count as at most this far: a first change after hours of constancy must not explode
PER_UNIT_W: Final = 100.0  # the regression learns in hundreds of watts, so that one step size fits all


class Judgement(NamedTuple):
    """One observation against the relation. `score` in running standard deviations, None while silent."""

    predicted_w: float
    score: float | None
    drifted: bool


@dataclass(frozen=True, slots=True)
class RegressionState:
    """The relation as numbers."""

    seen: int
    counts: dict[str, int]
    means: dict[str, float]
    variances: dict[str, float]
    weights: dict[str, float]
    intercept: float
    mean_residual: float
    variance_residual: float


class EfficiencyRegression:
    """One stack's relation between work and watts per GPU."""

    def __init__(self) -> None:
        self.seen = 0
        self._scaler = preprocessing.StandardScaler()
        self._model = _linear({}, 0.0)
        self._mean, self._variance = 0.0, 0.0
        self._drift = drift.ADWIN(delta=1e-5)

    def observe(self, x: Mapping[str, float], power_w: float) -> Judgement:
        """Judges an observation, then learns it. All of INPUTS must be there and finite."""
        y = power_w / PER_UNIT_W
        inputs = {name: x[name] for name in INPUTS}
        self._scaler.learn_one(inputs)
        raw = self._scaler.transform_one(inputs)
        scaled = {name: min(max(value, -FARTHEST), FARTHEST) for name, value in raw.items()}
        predicted = float(self._model.predict_one(scaled))
        residual = y - predicted
        familiar = all(abs(value) <= FAMILIAR for value in raw.values())
        score = self._score(residual, predicted) if self.seen >= WARMUP and familiar else None
        drifted = self._learn(scaled, predicted, residual)
        return Judgement(predicted * PER_UNIT_W, score, drifted)

    def _score(self, residual: float, predicted: float) -> float:
        spread = max(math.sqrt(self._variance), LEAST_SPREAD * abs(predicted))
        return (residual - self._mean) / spread if spread > 0.0 else 0.0

    def _learn(self, scaled: dict[str, float], predicted: float, residual: float) -> bool:
        # One broken engine must neither bend the relation for its stack nor widen the spread that shows it.
        if self.seen > WARMUP:
            limit = THRESHOLD * max(math.sqrt(self._variance), LEAST_SPREAD * abs(predicted))
            residual = min(max(residual, self._mean - limit), self._mean + limit)
        self._model.learn_one(scaled, predicted + residual)
        self.seen += 1
        if self.seen < WARMUP // 2:
            return False  # the first residuals tell of an empty model
        step = FORGET if self.seen > WARMUP else 0.05
        away = residual - self._mean
        self._mean += step * away
        self._variance = (1.0 - step) * (self._variance + step * away * away)
        before = self._drift.estimation
        self._drift.update(residual)
        if not self._drift.drift_detected or self.seen <= WARMUP:
            return False
        # Load is correlated in time, so ADWIN also finds shifts too small to matter.
        return bool(abs(self._drift.estimation - before) >= LEAST_DRIFT * abs(predicted))

    def state(self) -> RegressionState:
        """Everything but the drift detector's window."""
        return RegressionState(
            seen=self.seen,
            counts=dict(self._scaler.counts),
            means=dict(self._scaler.means),
            variances=dict(self._scaler.vars),
            weights=dict(self._model.weights),
            intercept=float(self._model.intercept),
            mean_residual=self._mean,
            variance_residual=self._variance,
        )

    def restore(self, state: RegressionState) -> None:
        """Takes a state back."""
        self.seen, self._mean, self._variance = state.seen, state.mean_residual, state.variance_residual
        self._scaler.counts.update(state.counts)
        self._scaler.means.update(state.means)
        self._scaler.vars.update(state.variances)
        self._model = _linear(state.weights, state.intercept)


def _linear(weights: Mapping[str, float], intercept: float) -> linear_model.LinearRegression:
    """A linear regression that starts from these weights."""
    model = linear_model.LinearRegression(optimizer=optim.SGD(0.01), intercept_init=intercept, intercept_lr=0.01)
    model._weights.update(dict(weights))  # River offers no other way in; a test pins the name
    return model
