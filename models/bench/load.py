"""Request streams for the bench: from a rate curve and length distributions, or from recorded requests. Arrays only.

What a stream cannot be (a clock that goes back, lengths of zero, prompts that never fit) is repaired in a stated way
and counted, never dropped silently.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.bench.spans import DAY_S as DAY_S
from models.bench.spans import check_epoch, check_span, usual_gap_s
from models.bench.state import RING

F8 = NDArray[np.float64]
TAU_S: Final = 60.0  # correlation time of the rate's modulation
LONGEST_OUTPUT: Final = RING - 2


@dataclass(frozen=True, slots=True)
class Lengths:
    """Inverse distribution functions of prompt and output tokens: share -> tokens, both rising.

    `kv_limit`: tokens that one replica's cache holds; a request of more is refused, as one of a recording is.
    """

    prompt_share: F8
    prompt_tokens: F8
    output_share: F8
    output_tokens: F8
    kv_limit: float = inf

    def means(self) -> tuple[float, float]:
        """Mean prompt and output tokens that a drawn request brings; one that is refused brings none."""
        share = (np.arange(20_000) + 0.5) / 20_000
        prompt = np.maximum(np.interp(share, self.prompt_share, self.prompt_tokens), 2.0)
        output = np.clip(np.interp(share, self.output_share, self.output_tokens), 1.0, LONGEST_OUTPUT)
        if prompt[-1] + output[-1] <= self.kv_limit:
            return float(prompt.mean()), float(output.mean())
        beside = np.searchsorted(output, self.kv_limit - prompt, side="right")  # outputs that fit each prompt
        brought = np.concatenate([[0.0], np.cumsum(output)])[beside]
        return float((prompt * beside).sum() / 4e8), float(brought.sum() / 4e8)

    @property
    def all_served(self) -> bool:
        """Whether no request that can be drawn is refused, clipped or raised."""
        most = self.output_tokens[-1] <= LONGEST_OUTPUT
        fits = self.prompt_tokens[-1] + self.output_tokens[-1] <= self.kv_limit
        return bool(most and fits and self.prompt_tokens[0] >= 1.0 and self.output_tokens[0] >= 0.5)


@dataclass(frozen=True, slots=True)
class Curve:
    """Requests per second over time; `sigma` is the log-normal modulation around it."""

    t_s: F8
    rate: F8
    lengths: Lengths
    sigma: float

    def at(self, t_s: F8) -> F8:
        found: F8 = np.interp(t_s, self.t_s, self.rate)
        return found

    def scaled(self, factor: float) -> Curve:
        return Curve(self.t_s, self.rate * factor, self.lengths, self.sigma)

    @property
    def days(self) -> float:
        """To half a usual gap after the last rate, which stands in the middle of its time."""
        return float(self.t_s[-1] + usual_gap_s(self.t_s) / 2) / DAY_S


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests in order of arrival, from second 0. `notes`: what was repaired, with counts."""

    arrival_s: F8
    prompt: NDArray[np.int32]
    output: NDArray[np.int32]
    seconds: float
    notes: dict[str, int] = field(default_factory=dict)

    def columns(self) -> tuple[F8, NDArray[np.int32], NDArray[np.int32]]:
        return self.arrival_s, self.prompt, self.output


def draw(curve: Curve, *, from_s: float, to_s: float, seed: int) -> Stream:
    """A Poisson stream of the curve, its rate modulated log-normally with a correlation time of one minute."""
    rng = np.random.default_rng(seed)
    second = np.arange(from_s, to_s, 1.0)
    keep = np.exp(-1.0 / TAU_S)
    noise = rng.standard_normal(len(second)) * np.sqrt(1.0 - keep * keep)
    level = _filtered(noise, keep, float(rng.standard_normal()))
    rate = curve.at(second) * np.exp(curve.sigma * level - 0.5 * curve.sigma**2)
    count = rng.poisson(rate)
    arrival = np.repeat(second - from_s, count) + rng.random(int(count.sum()))
    arrival.sort()
    lengths = curve.lengths
    prompt = np.interp(rng.random(len(arrival)), lengths.prompt_share, lengths.prompt_tokens)
    output = np.interp(rng.random(len(arrival)), lengths.output_share, lengths.output_tokens)
    notes = {
        "prompt_raised_to_2": int((prompt < 1).sum()),
        "output_raised_to_1": int((np.round(output) < 1).sum()),
        "output_clipped": int((output > LONGEST_OUTPUT).sum()),
    }
    prompt, output = np.floor(np.maximum(prompt, 2)), np.clip(np.round(output), 1, LONGEST_OUTPUT)
    if not (fits := prompt + output <= lengths.kv_limit).all():
        notes["refused_over_kv_limit"] = int((~fits).sum())
        arrival, prompt, output = arrival[fits], prompt[fits], output[fits]
    return Stream(
        arrival_s=arrival,
        prompt=prompt.astype(np.int32),
        output=output.astype(np.int32),
        seconds=to_s - from_s,
        notes={name: count for name, count in notes.items() if count},
    )


def _filtered(noise: F8, keep: float, start: float) -> F8:
    from scipy.signal import lfilter

    found, _ = lfilter([1.0], [1.0, -keep], noise, zi=np.array([keep * start]))
    return np.asarray(found, dtype=np.float64)


def recorded(t_s: F8, prompt: F8, output: F8, *, kv_limit: float, what: str = "the trace") -> Stream:
    """Recorded requests, repaired: sorted by time, gaps kept, lengths put into what an engine takes.

    A negative number of tokens is none: such a row is left out as one that cannot be read.
    """
    known = np.isfinite(t_s) & np.isfinite(prompt) & np.isfinite(output)
    negative = known & ((prompt < 0.0) | (output < 0.0))
    notes = {"rows_unreadable": int((~known).sum()), "rows_with_negative_tokens": int(negative.sum())}
    known &= ~negative
    t_s, prompt, output = t_s[known], prompt[known], output[known]
    if len(t_s) < 2:
        raise ValueError(f"{what} holds {len(t_s)} readable requests; give at least 2")
    check_epoch(t_s, what)
    check_span(t_s, what)
    notes["clock_went_back"] = int((np.diff(t_s) < 0).sum())
    order = np.argsort(t_s, kind="stable")
    t_s, prompt, output = t_s[order] - t_s[order[0]], np.floor(prompt[order]), np.floor(output[order])
    notes["prompt_raised_to_1"] = int((prompt < 1).sum())
    notes["output_raised_to_1"] = int((output < 1).sum())
    notes["output_clipped"] = int((output > LONGEST_OUTPUT).sum())
    prompt, output = np.maximum(prompt, 1), np.clip(output, 1, LONGEST_OUTPUT)
    fits = prompt + output <= kv_limit
    notes["refused_over_kv_limit"] = int((~fits).sum())
    t_s, prompt, output = t_s[fits], prompt[fits], output[fits]
    if len(t_s) < 2:
        raise ValueError(
            f"{what}: only {len(t_s)} requests fit the KV limit of {kv_limit:.0f} tokens; give shorter ones"
        )
    return Stream(
        arrival_s=t_s,
        prompt=prompt.astype(np.int32),
        output=output.astype(np.int32),
        seconds=float(t_s[-1]) + 1.0,
        notes={name: count for name, count in notes.items() if count},
    )
