"""Fits serving stacks to batch-size sweeps: sequences running to time between tokens and watts of a GPU.

Two forms. Where model and GPU are known, the twin's own equations with their constants fitted (`fit_physical`). For a
stack of which only a batch sweep is at hand, a law of six numbers whose spread was learned from other stacks
(`fit_stacks`). Set points do not transfer between models, so neither is used for another stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.control.profiles import StackProfile
from models.twin.device import Load, capped
from models.twin.fitting import Prior, diagonal, learn_prior, solve

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

# log of: seconds at batch 1, batch at which they have doubled, exponent, watts at rest, watts that the token rate adds,
# token rate at which half of them are there
WIDE: Final = diagonal(np.log([0.03, 100.0, 1.0, 150.0, 250.0, 1000.0]), np.array([1.5, 1.5, 0.3, 0.5, 0.6, 1.5]))
_FLOOR: Final = np.array([0.2, 0.2, 0.06, 0.1, 0.1, 0.2])
TIME_SIGMA: Final = 0.03
POWER_SIGMA: Final = 0.02


@dataclass(frozen=True, slots=True)
class Batches:
    """One stack: sequences running, seconds between tokens, watts of one GPU."""

    name: str
    device: str
    model: str
    running: Array
    time_s: Array
    watts: Array


def alternate(count: int) -> Bools:
    """Every other point, the first among them."""
    return np.asarray(np.arange(count) % 2 == 0, dtype=np.bool_)


def law(p: Array, running: Array) -> tuple[Array, Array]:
    """Seconds and watts of the six-number law; one row per stack."""
    at_one, double, power, rest_w, more_w, half_rate = (np.exp(p[:, [column]]) for column in range(6))
    time_s = at_one * (1.0 + (running / double) ** power)
    rate = running / time_s
    return time_s, rest_w + more_w * rate / (rate + half_rate)


def fit_stacks(stacks: Sequence[Batches], used: Sequence[Bools], *, prior: Prior = WIDE) -> Array:
    """Parameters of each stack from its used points."""
    table = _Padded(stacks, used)
    white = prior.whitener()

    def residuals(p: Array) -> Array:
        time_s, watts = law(p, table.running)
        time_off = table.used * np.log(time_s / table.time_s) / TIME_SIGMA
        power_off = table.used * np.log(watts / table.watts) / POWER_SIGMA
        return np.concatenate([time_off, power_off, (p - prior.mean) @ white], axis=1)

    start = np.tile(prior.mean, (len(stacks), 1))
    start[:, 0] = np.log(0.8 * np.min(np.where(table.used > 0, table.time_s, np.inf), axis=1))
    return solve(residuals, start, iterations=120)[0]


def learn_stacks(stacks: Sequence[Batches], *, rounds: int = 3) -> Prior:
    """How the six numbers are spread over stacks."""
    prior, everything = WIDE, [np.ones(len(one.running), dtype=np.bool_) for one in stacks]
    for _ in range(rounds):
        prior = learn_prior(fit_stacks(stacks, everything, prior=prior), floor_sigma=_FLOOR)
    return prior


def errors(stacks: Sequence[Batches], parameters: Array, judged: Sequence[Bools]) -> tuple[Array, Array]:
    """Relative errors in time and in watts at the judged points."""
    times, watts = [], []
    for one, row, rows in zip(stacks, parameters, judged, strict=True):
        time_s, power_w = law(row[None, :], one.running[rows][None, :])
        times.append(time_s[0] / one.time_s[rows] - 1.0)
        watts.append(power_w[0] / one.watts[rows] - 1.0)
    return np.concatenate(times), np.concatenate(watts)


class _Padded:
    def __init__(self, stacks: Sequence[Batches], used: Sequence[Bools]) -> None:
        shape = (len(stacks), max(len(one.running) for one in stacks))
        self.running, self.time_s, self.watts = np.ones(shape), np.ones(shape), np.ones(shape)
        self.used = np.zeros(shape)
        for row, (one, rows) in enumerate(zip(stacks, used, strict=True)):
            count = len(one.running)
            self.running[row, :count], self.time_s[row, :count] = one.running, one.time_s
            self.watts[row, :count], self.used[row, :count] = one.watts, rows


# --- the twin's own equations ---

# log of: bandwidth share, overhead, seconds per sequence, memory watts, flop watts, clock watts, context length,
# flop share, prompt tokens prefilled per token decoded. The spread is what is plausible, not what fits.
_PHYSICAL_START: Final = np.log([0.65, 2e-3, 5e-5, 150.0, 900.0, 250.0, 400.0, 0.46, 0.5])
_PHYSICAL_SIGMA: Final = np.array([0.2, 0.7, 0.7, 0.5, 0.3, 0.5, 0.5, 0.2, 0.7])


@dataclass(frozen=True, slots=True)
class Physical:
    """A fitted profile and the load that goes with each running sequence."""

    stack: StackProfile
    context_tokens: float
    prefill_per_token: float

    def at(self, running: Array) -> tuple[Array, Array]:
        """Seconds and watts at full clock under the device's default limit."""
        load = Load(running, running * self.context_tokens, running * self.prefill_per_token)
        limit = np.full(len(running), self.stack.device.limit_default_w)
        _, time_s, watts = capped(self.stack, load, x=np.ones(len(running)), cap_w=limit)
        return time_s, watts


def physical(stack: StackProfile, values: Array) -> Physical:
    """The profile with these logarithms in it."""
    share, overhead, sequence, memory_w, flop_w, clock_w, context, flop_share, prefill = np.exp(values).tolist()
    device = replace(stack.device, memory_w=memory_w, flop_w=flop_w, clock_w=clock_w)
    fitted = replace(
        stack,
        device=device,
        bandwidth_share=share,
        overhead_s=overhead,
        sequence_s=sequence,
        flop_share=flop_share,
    )
    return Physical(fitted, context, prefill)


def fit_physical(stack: StackProfile, points: Batches, used: Bools) -> Physical:
    """Constants of the twin's equations from the used points of a batch sweep."""
    from scipy.optimize import least_squares

    running, time_s, watts = points.running[used], points.time_s[used], points.watts[used]

    def residuals(values: Array) -> Array:
        seconds, power_w = physical(stack, values).at(running)
        away = (values - _PHYSICAL_START) / _PHYSICAL_SIGMA
        return np.concatenate([np.log(seconds / time_s) / TIME_SIGMA, np.log(power_w / watts) / POWER_SIGMA, away])

    return physical(stack, np.asarray(least_squares(residuals, _PHYSICAL_START).x))
