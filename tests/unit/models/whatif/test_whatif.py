"""The what-if on archives whose truth is known, because a twin with other ratios made them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.cli.whatif_archive import read
from agents.cli.whatif_policy import PooledTargets
from models.control.profiles import LLAMA_70B_H100X4, StackProfile
from models.policy.strategies import strategy
from models.twin.params import variant
from models.whatif import arrivals, fit, judge
from models.whatif.series import BUCKETS, Machine, Series, quantile_ms
from models.whatif.study import Study, Unfit, study
from streams.contract import histogram
from tests.fakes import twin_archive as twin

TRUE = fit.Ratios(decode=1.2, prefill=1.3, power=1.15)
AGGRESSIVE = strategy("aggressive")


@pytest.fixture(scope="module")
def at_default() -> twin.Truth:
    return twin.run(fit.apply(variant().stack, TRUE))


@pytest.fixture(scope="module")
def series(at_default: twin.Truth, tmp_path_factory: pytest.TempPathFactory) -> Series:
    folder = twin.write(tmp_path_factory.mktemp("whatif") / "archive", at_default)
    material = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000)
    assert material.notes == []
    return material.series[0]


def _study(series: Series, profile: StackProfile | None = None) -> Study:
    def targets(of: Series, reference: object) -> PooledTargets:
        return PooledTargets(of, AGGRESSIVE, window_s=120.0, reference=reference)  # type: ignore[arg-type]

    return study(series, AGGRESSIVE, make_targets=targets, interval_s=5.0, profile=profile, kappas=("mid",))


def test_the_energy_of_a_strategy_that_never_ran_is_that_of_its_real_run(
    at_default: twin.Truth, series: Series
) -> None:
    truth = twin.run(fit.apply(variant().stack, TRUE), name="aggressive")
    found = _study(series)
    warm = int(np.flatnonzero(found.parts.replayed)[0])
    true_saving = 1.0 - truth.mean_w(warm) / at_default.mean_w(warm)
    assert true_saving > 0.3  # a strategy that changes nothing would prove nothing
    assert found.central.saving_ran == pytest.approx(true_saving, abs=0.04)
    assert found.energy_j == pytest.approx(truth.power_w[:, warm:].sum() * twin.GPUS, rel=0.06)
    ratios = found.central.ratios
    assert ratios.decode == pytest.approx(TRUE.decode, rel=0.05)
    assert ratios.power == pytest.approx(TRUE.power, rel=0.05)
    assert ratios.prefill == pytest.approx(TRUE.prefill, rel=0.1)
    assert all(row.passed and row.error_ratio is not None for row in found.central.checks)
    assert found.central.tally is not None and found.central.tally.clock_changes > 0
    assert found.central.tally.extrapolated_s > 0 and found.shown_mhz == 1980  # only default clocks were seen


def test_a_wrong_stack_profile_is_refused(series: Series) -> None:
    with pytest.raises(
        Unfit, match=r"the twin predicts p99_\w+ .* was measured, an error of \d+% over the bound of 25%"
    ):
        _study(series, replace(LLAMA_70B_H100X4, max_sequences=6))


def test_requests_add_up_to_the_counters(series: Series) -> None:
    load = arrivals.reconstruct(series, seed=3, kv_limit_tokens=400_000)
    work = load.work
    first_tokens = int(series.hits["ttft"].count.sum())
    in_flight = int((work.arrival_s == 0.0).sum())
    assert first_tokens <= len(work.arrival_s) <= first_tokens + in_flight
    assert load.measured_ratio > 0.7 and load.clipped == 0
    assert arrivals.reconstruct(series, seed=3, kv_limit_tokens=400).clipped > 0
    real = twin.load(3, seed=5)
    assert work.prompt_tokens.mean() == pytest.approx(real.prompt_tokens.mean(), rel=0.15)
    assert work.output_tokens.mean() == pytest.approx(real.output_tokens.mean(), rel=0.15)
    assert series.seconds == 75 and not series.lock_mhz.any() and (series.limit_w == 700).all()


def test_dense_quantiles_are_those_of_the_contract() -> None:
    counts = np.zeros(BUCKETS, dtype=np.int64)
    counts[[10, 40, 200]] = 5, 90, 5
    for q in (0.01, 0.5, 0.96, 0.99):
        assert quantile_ms(counts, q) == pytest.approx(histogram.quantile({10: 5, 40: 90, 200: 5}, q))
    assert np.isnan(quantile_ms(np.zeros(BUCKETS, dtype=np.int64), 0.5))


def test_the_verdict_names_what_is_worst_or_unknown() -> None:
    good = judge.Check("power_w", 400.0, 410.0, 0.025, 0.15, 90, required=True)
    assert judge.objection([good]) is None
    assert judge.objection([replace(good, predicted=500.0, error_ratio=0.25)]) == (
        "the twin predicts power_w 500 where 400 was measured, an error of 25% over the bound of 15%"
    )
    unknown = judge.Check("p99_ttft_ms", None, 500.0, None, 0.25, 12, required=True)
    assert judge.objection([good, unknown]) == (
        "p99_ttft_ms is unknown in the second part (12 samples of 200 needed); take a longer range"
    )
    assert judge.objection([good, replace(unknown, quantity="p99_e2e_ms", required=False)]) is None


def test_an_interval_spans_what_blocks_say_and_is_unknown_for_two() -> None:
    theirs = np.full(100, 10.0)
    ours = np.where(np.arange(100) < 50, 6.0, 8.0)
    low, high = judge.saving_interval(ours, theirs, step_s=1.0) or (0.0, 0.0)
    assert 0.2 <= low < 0.3 < high <= 0.4
    assert judge.saving_interval(ours[:50], theirs[:50], step_s=1.0) is None


def test_a_gap_ends_what_is_settled(series: Series) -> None:
    seam = np.zeros(75, dtype=np.bool_)
    seam[[0, 40]] = True
    settled = replace(series, seam=seam).settled(10.0)
    assert np.flatnonzero(settled).tolist() == [*range(10, 40), *range(50, 75)]


def test_silent_engines_and_cut_time_are_left_out(at_default: twin.Truth, tmp_path: Path) -> None:
    folder = twin.write(tmp_path / "archive", at_default, silent=range(30, 38), restart=50)
    found = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000).series[0]
    assert np.flatnonzero(found.seam).tolist() == [0, 33]  # three silent seconds could be jitter
    assert found.slots == 70 and (found.prompt >= 0).all() and found.prompt[:, 45].sum() == 0


def test_an_archive_of_five_seconds_gives_the_same_requests(at_default: twin.Truth, tmp_path: Path) -> None:
    folder = twin.write(tmp_path / "archive", twin.coarser(at_default, 5))
    found = read(folder, start_ns=None, end_ns=None, engine_seconds=20_000).series[0]
    assert (found.step_s, found.slots) == (5.0, 15)
    assert found.mean_power_w(found.settled(0.0)) == pytest.approx(at_default.mean_w(5), rel=0.02)
    work, real = arrivals.reconstruct(found, seed=3, kv_limit_tokens=400_000).work, twin.load(3, seed=5)
    for q in (50, 90):
        assert np.percentile(work.output_tokens, q) == pytest.approx(np.percentile(real.output_tokens, q), rel=0.2)


def test_an_unknown_device_is_scaled_by_its_limit() -> None:
    a100 = Machine("NVIDIA A100-SXM4-80GB", 8, 1410.0, 400.0, 100.0, 400.0)
    stack = fit.base(a100, None, "mid", kv_limit_tokens=float("nan"))
    assert (stack.gpus, stack.device.fmax_mhz, stack.device.limit_min_w) == (8, 1410.0, 100.0)
    assert stack.device.idle_w == pytest.approx(LLAMA_70B_H100X4.device.idle_w * 400 / 700)
    fitted = fit.apply(stack, fit.Ratios(decode=2.0, prefill=0.5, power=1.5, idle=0.8)).stack
    assert fitted.overhead_s == 2 * stack.overhead_s and fitted.flop_share == 2 * stack.flop_share
    assert fitted.device.idle_w == pytest.approx(0.8 * stack.device.idle_w)
