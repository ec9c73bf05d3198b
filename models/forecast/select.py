"""Chooses a forecaster by rolling backtest and says how far its errors reached: quantiles, coverage, errors of all.

Every candidate sees the same values and is asked at the same moments, each time for the whole horizon. The quantiles
are those of the chosen one's own errors. Too little history raises TooShort; nothing is invented.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite
from typing import Final

from models.forecast.base import QUANTILES, Diverged, Forecaster, Series, TooShort
from models.forecast.holt_winters import HoltWinters
from models.forecast.seasonal_naive import SeasonalNaive
from models.forecast.snarimax import Snarimax

NAIVE: Final = "seasonal_naive"
MOST_WINDOWS: Final = 24
LEAST_WINDOWS: Final = 8  # a coverage of fewer windows says nothing
GAP_RATIO_MAX: Final = 0.3  # of unknown values: above it a backtest would judge what was filled in
BLOCKS: Final = 6  # lead times share their errors within a block
LOW, HIGH = 0.1, 0.9  # the interval whose coverage is stated


@dataclass(frozen=True, slots=True)
class Score:
    """One candidate's backtest. `coverage` is of the 10-90 % interval, from errors of other windows only."""

    model: str
    mae: float | None
    pinball: float | None
    mase: float | None  # mae over the seasonal naive's in the same windows; None where that is 0
    coverage: float | None
    windows: int
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The chosen model's forecast: one mean and one value per quantile of QUANTILES for each step."""

    model: str
    season: int
    mean: tuple[float, ...]
    quantiles: tuple[tuple[float, ...], ...]
    scores: tuple[Score, ...]
    missing_ratio: float


def candidates(season: int) -> list[Callable[[], Forecaster]]:
    """The models that compete, each made anew for a run."""
    return [
        lambda: SeasonalNaive(season),
        lambda: HoltWinters(season, alpha=0.5, beta=0.05, gamma=0.2),
        lambda: HoltWinters(season, alpha=0.15, beta=0.02, gamma=0.3),
        lambda: HoltWinters(season, alpha=0.9, beta=0.0, gamma=0.1),
        lambda: Snarimax(season, p=3, sp=1 if season > 1 else 0),
    ]


def needed(horizon: int, season: int) -> int:
    """Values that a forecast needs: two seasons to learn from, then enough windows to be judged on."""
    return 2 * season + horizon + (LEAST_WINDOWS - 1) * max(1, horizon // 4)


def forecast(series: Series, horizon: int, *, minimum: float | None = None) -> Outcome:
    """The forecast of the next `horizon` steps; `minimum` cuts what cannot be (power below 0).

    Raises:
        TooShort: too few values, or too many of them unknown.
    """
    values, missing = _filled(series)
    season = series.season
    least = needed(horizon, season)
    if len(values) < least:
        raise TooShort(
            f"{len(values) * series.step_s / 3600:.2f} h of history are too little for a horizon of "
            f"{horizon * series.step_s / 3600:g} h: {least * series.step_s / 3600:.2f} h are needed"
        )
    runs = [_run(make, values, horizon, season) for make in candidates(season)]
    naive = next(run for run in runs if run.name == NAIVE)
    scores = tuple(_score(run, naive) for run in runs)
    usable = [(score, run) for score, run in zip(scores, runs, strict=True) if run.failed is None and run.final]
    _, best = min(usable, key=lambda pair: (pair[0].pinball, pair[0].mae))
    return _outcome(best, season, scores, missing, minimum)


@dataclass(slots=True)
class _Run:
    """A candidate's errors (truth - forecast) per window and lead, and its last forecast."""

    name: str
    errors: list[list[float]]
    final: list[float] | None
    failed: str | None = None


def _filled(series: Series) -> tuple[list[float], float]:
    """Unknown values between known ones are drawn as a line; at the ends they are left out. One value is no history."""
    known = [index for index, value in enumerate(series.values) if value is not None and isfinite(value)]
    if len(known) < 2:
        return [], 1.0
    missing = 1.0 - len(known) / (known[-1] - known[0] + 1)
    if missing > GAP_RATIO_MAX:
        raise TooShort(
            f"{missing * 100:.0f} % of the history is unknown and at most {GAP_RATIO_MAX * 100:.0f} % may be: "
            "a backtest would judge what was filled in"
        )
    out: list[float] = []
    for left, right in pairwise(known):
        a, b = float(series.values[left] or 0.0), float(series.values[right] or 0.0)
        out += [a + (b - a) * step / (right - left) for step in range(right - left)]
    return [*out, float(series.values[known[-1]] or 0.0)], missing


def _run(make: Callable[[], Forecaster], values: Sequence[float], horizon: int, season: int) -> _Run:
    """One pass: learn each value; at each origin forecast the horizon and keep the errors."""
    model = make()
    origins = _origins(len(values), horizon, season)
    run = _Run(model.name, [], None)
    try:
        for index, value in enumerate(values):
            if index in origins and (ahead := model.forecast(horizon)) is not None:
                run.errors.append([values[index + lead] - ahead[lead] for lead in range(horizon)])
            model.learn(value)
        run.final = model.forecast(horizon)
    except (Diverged, OverflowError, ValueError) as error:
        run.failed = str(error)
    if run.failed is None and len(run.errors) < LEAST_WINDOWS:
        run.failed = f"only {len(run.errors)} windows to judge it by, {LEAST_WINDOWS} are needed"
    return run


def _origins(count: int, horizon: int, season: int) -> frozenset[int]:
    """Where forecasts begin: spread over all that leaves two seasons before and a horizon after."""
    first, last = 2 * season, count - horizon
    windows = min(MOST_WINDOWS, 1 + (last - first) // max(1, horizon // 4))
    if windows < 2:
        return frozenset({last})
    return frozenset(round(first + (last - first) * k / (windows - 1)) for k in range(windows))


def _score(run: _Run, naive: _Run) -> Score:
    if run.failed is not None:
        return Score(run.name, None, None, None, None, len(run.errors), run.failed)
    mae, base = _mae(run), _mae(naive) if naive.failed is None else 0.0
    inside, seen, loss = 0, 0, 0.0
    for held in range(len(run.errors)):
        # A neighbouring window shares values with this one: its errors would judge themselves.
        others = [errors for k, errors in enumerate(run.errors) if abs(k - held) > 1]
        bands = _bands(others)
        for lead, error in enumerate(run.errors[held]):
            band = bands[_block(lead, len(run.errors[held]))]
            low, high = _quantile(band, LOW), _quantile(band, HIGH)
            inside, seen = inside + (low <= error <= high), seen + 1
            loss += sum(_pinball(error - _quantile(band, q), q) for q in QUANTILES) / len(QUANTILES)
    return Score(run.name, mae, loss / seen, mae / base if base > 0 else None, inside / seen, len(run.errors))


def _mae(run: _Run) -> float:
    flat = [abs(error) for errors in run.errors for error in errors]
    return sum(flat) / len(flat)


def _pinball(miss: float, q: float) -> float:
    return max(q * miss, (q - 1.0) * miss)


def _block(lead: int, horizon: int) -> int:
    return lead * BLOCKS // horizon


def _bands(windows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Sorted errors of each block of lead times; a short horizon leaves some blocks without any."""
    bands: list[list[float]] = [[] for _ in range(BLOCKS)]
    for errors in windows:
        for lead, error in enumerate(errors):
            bands[_block(lead, len(errors))].append(error)
    return [sorted(band) for band in bands]


def _quantile(ordered: Sequence[float], q: float) -> float:
    """The sample quantile, moved outwards by one place of n + 1, so that a new error lies inside as often as stated."""
    count = len(ordered)
    place = ceil((count + 1) * q) if q > 0.5 else floor((count + 1) * q) if q < 0.5 else (count + 1) // 2
    return ordered[min(count, max(1, place)) - 1]


def _outcome(best: _Run, season: int, scores: tuple[Score, ...], missing: float, minimum: float | None) -> Outcome:
    assert best.final is not None
    bands, horizon = _bands(best.errors), len(best.final)

    def cut(value: float) -> float:
        return value if minimum is None else max(minimum, value)

    quantiles = tuple(
        tuple(cut(value + _quantile(bands[_block(lead, horizon)], q)) for q in QUANTILES)
        for lead, value in enumerate(best.final)
    )
    return Outcome(best.name, season, tuple(map(cut, best.final)), quantiles, scores, missing)
