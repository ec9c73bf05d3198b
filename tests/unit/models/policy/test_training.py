"""The online choice of a limit: within the bound, near the oracle, few steps; and ranks and stages that wait."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from models.control.curve import fit_curve
from models.control.training import Block, Choice, Rules, Trial, recheck, search
from models.policy.ranks import Option, Stage, for_pipeline, for_ranks, iteration_s
from models.policy.trial_run import SweepTable, replay

BERT = SweepTable(  # A40, BERT on SQuAD, batch 32: seconds per epoch and joules (Zeus trace)
    settings=[100, 125, 150, 175, 200, 225, 250, 275, 300],
    times_s=[3699.8, 2381.7, 1586.2, 1156.8, 1028.1, 967.4, 934.9, 913.3, 909.5],
    energies_j=[391_809, 292_711, 230_633, 193_301, 193_900, 203_154, 217_000, 229_420, 242_837],
    reference=300,
)


def _drive(measure: Callable[[Trial], Block], **wanted: object) -> tuple[Choice, list[Trial]]:
    hunt, trials = search(**wanted), []  # type: ignore[arg-type]
    try:
        trial = next(hunt)
        while True:
            trials.append(trial)
            trial = hunt.send(measure(trial))
    except StopIteration as end:
        return end.value, trials


def _steady(trial: Trial, time_s: float, energy_j: float, *, sigma: float = 0.01, seed: int = 0) -> Block:
    rng = Random(f"{seed} {trial.setting}")
    counted = trial.steps - trial.settle
    times = [time_s * (1.0 + rng.gauss(0.0, sigma)) for _ in range(counted)]
    return Block(times, [one * energy_j / time_s for one in times])


def test_a_recorded_sweep_is_searched_within_bound_and_budget() -> None:
    for seed in range(8):
        found = replay(BERT, bound=0.05, run_steps=20_000, seed=seed)
        assert found.slowdown <= 0.05
        assert found.steps <= 1_000 and found.measuring_ratio <= 0.05
        assert found.choice.slowdown_interval[1] <= 0.05 + 1e-9
    assert found.saving >= 0.9 * BERT.saving(BERT.oracle(0.05))
    assert "less energy at" in found.choice.reason


def test_a_wider_bound_saves_more_and_none_keeps_the_reference() -> None:
    wide = replay(BERT, bound=0.30, run_steps=50_000, seed=1)
    assert wide.choice.setting in (175, 200)
    assert wide.saving > replay(BERT, bound=0.05, run_steps=50_000, seed=1).saving
    assert replay(BERT, bound=0.0, run_steps=20_000, seed=1).choice.setting == 300


def test_a_run_too_short_to_compare_keeps_the_reference_and_says_so() -> None:
    choice, trials = _drive(lambda _: Block([], []), settings=[200, 300], reference=300, bound=0.05, run_steps=500)
    assert trials == [] and choice.setting == 300 and choice.steps == 0
    assert choice.reason == "25 steps are too few for one comparison of 32: the reference is kept"


def test_drift_of_the_whole_job_is_no_slowdown() -> None:
    """Every block is slower than the one before it; alternation cancels it."""
    done = [0]

    def measure(trial: Trial) -> Block:
        done[0] += 1
        scale = 1.0 + 0.004 * done[0]
        return _steady(
            trial, scale * (1.0 if trial.setting == 300 else 1.01), scale * (300 if trial.setting == 300 else 250)
        )

    choice, _ = _drive(measure, settings=[250, 300], reference=300, bound=0.03, run_steps=20_000)
    assert choice.setting == 250 and choice.slowdown == pytest.approx(0.01, abs=0.006)


def _recheck(slower: float) -> bool:
    rng, check = Random(4), recheck(250, reference=300, bound=0.05)
    try:
        trial = next(check)
        while True:
            time_s = slower if trial.setting == 250 else 1.0
            times = [time_s * (1.0 + rng.gauss(0.0, 0.02)) for _ in range(trial.steps - trial.settle)]
            trial = check.send(Block(times, [200.0 * one for one in times]))
    except StopIteration as end:
        return bool(end.value)


def test_a_job_that_changed_is_noticed_and_one_that_did_not_stays() -> None:
    assert _recheck(1.03) and _recheck(1.05)
    assert not _recheck(1.12)


def test_blocks_that_measured_nothing_are_not_believed() -> None:
    choice, trials = _drive(
        lambda trial: Block([0.0] * 14, [float("nan")] * 14),
        settings=[250, 300],
        reference=300,
        bound=0.05,
        run_steps=5_000,
    )
    assert choice.setting == 300 and choice.measured == () and len(trials) > 0


def test_a_setting_at_the_bound_is_not_chosen_while_unsure() -> None:
    for seed in range(5):
        rng = Random(seed)

        def measure(trial: Trial, rng: Random = rng) -> Block:
            slower, energy = (1.0, 300.0) if trial.setting == 300 else (1.0495, 200.0)
            times = [slower * (1.0 + rng.gauss(0.0, 0.05)) for _ in range(trial.steps - trial.settle)]
            return Block(times, [energy for _ in times])

        choice, trials = _drive(measure, settings=[250, 300], reference=300, bound=0.05, run_steps=10_000)
        assert choice.setting == 300 and sum(one.steps for one in trials) <= 500


def _coin(saving: float, seed: int) -> Choice:
    """A setting that takes the same time and saves little, under noise of 3 %."""
    rng = Random(seed)

    def measure(trial: Trial) -> Block:
        times = [1.0 + rng.gauss(0.0, 0.03) for _ in range(trial.steps - trial.settle)]
        scale = 300.0 * (1.0 - saving if trial.setting == 250 else 1.0)
        return Block(times, [scale * one for one in times])

    return _drive(measure, settings=[250, 300], reference=300, bound=0.05, run_steps=100_000)[0]


def test_a_small_saving_is_measured_until_it_is_sure_and_luck_is_none() -> None:
    assert sum(_coin(0.015, seed).setting == 250 for seed in range(10)) >= 9
    assert sum(_coin(0.0, seed).setting == 250 for seed in range(30)) <= 5
    assert all(_coin(-0.004, seed).setting == 300 for seed in range(10))


def test_a_finely_graded_clock_is_searched_along_a_curve() -> None:
    clocks = [float(mhz) for mhz in range(855, 1411, 15)]

    def time_s(mhz: float) -> float:
        away = (1410.0 - mhz) / 1410.0
        return 1.0 + 0.3 * away + 1.2 * away * away

    def measure(trial: Trial) -> Block:
        watts = 150.0 + 250.0 * (trial.setting / 1410.0) ** 3
        return _steady(trial, time_s(trial.setting), time_s(trial.setting) * watts, sigma=0.02)

    choice, trials = _drive(measure, settings=clocks, reference=1410.0, bound=0.05, run_steps=20_000)
    oracle = min(mhz for mhz in clocks if time_s(mhz) <= 1.05)
    assert time_s(choice.setting) <= 1.05
    assert 0 <= choice.setting - oracle <= 60
    assert sum(one.steps for one in trials) <= 1_000


def test_a_curve_passes_the_reference_and_its_error_grows_with_the_distance() -> None:
    curve = fit_curve([(90.0, 4), (80.0, 4), (70.0, 4)], [0.01, 0.025, 0.05], reference=100.0, sigma=0.01)
    assert curve.at(100.0) == 0.0 and curve.error(100.0) == 0.0
    assert curve.error(60.0) > curve.error(80.0)
    assert curve.at(80.0) == pytest.approx(0.025, abs=0.003)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"bound": -0.1}, "a slowdown bound of -0.1 is outside"),
        ({"reference": 310}, "the reference 310 is not among the 2 settings; add it"),
        ({"run_steps": 0}, "a run of 0 steps cannot be measured"),
    ],
)
def test_wrong_questions_are_refused(wanted: dict[str, float], text: str) -> None:
    asked = {"settings": [250, 300], "reference": 300, "bound": 0.05, "run_steps": 1_000} | wanted
    with pytest.raises(ValueError, match=text):
        _drive(lambda _: Block([], []), **asked)


def test_rules_are_kept_together_with_the_budget() -> None:
    found = replay(BERT, bound=0.05, run_steps=20_000, seed=3, rules=Rules(spent_ratio=0.01))
    assert found.steps <= 200


def _options(scale: float = 1.0) -> list[Option]:
    return [Option(300, 1.00 * scale, 300), Option(250, 1.03 * scale, 260), Option(200, 1.12 * scale, 225)]


def test_ranks_that_wait_are_slowed_to_the_straggler_and_no_further() -> None:
    plan = for_ranks({"a": _options(), "b": _options(), "slow": _options(1.15)}, guard=0.01)
    assert plan.settings == {"a": 200, "b": 200, "slow": 300}
    assert plan.slowdown == pytest.approx(0.0) and plan.pace_s == pytest.approx(1.15)
    assert plan.saving == pytest.approx(150 / 900)
    tight = for_ranks({"a": _options(), "slow": _options(1.035)}, guard=0.02)
    assert tight.settings == {"a": 300, "slow": 300}  # 1.03 would leave no guard
    alike = for_ranks({"a": _options(), "b": _options()})
    assert alike.settings == {"a": 300, "b": 300} and alike.saving == 0.0
    assert for_ranks({"a": _options(), "b": _options()}, bound=0.05).settings == {"a": 250, "b": 250}
    with pytest.raises(ValueError, match="a rank has no settings; measure at least its default"):
        for_ranks({"a": []})


def test_the_schedule_of_a_balanced_pipeline_is_the_textbook_one() -> None:
    for stages, micro in ((1, 5), (4, 4), (4, 12), (8, 3)):
        assert iteration_s([1.0] * stages, [2.0] * stages, micro) == pytest.approx((micro + stages - 1) * 3.0)


def test_pipeline_stages_with_slack_are_slowed_without_a_longer_iteration() -> None:
    fast = tuple(
        Option(clock, time, energy) for clock, time, energy in ((1400, 1.0, 300), (1200, 1.2, 250), (1000, 1.5, 220))
    )
    slow = tuple(Option(one.setting, 1.5 * one.time_s, 1.5 * one.energy_j) for one in fast)
    stages = [Stage(fast, fast), Stage(slow, slow), Stage(fast, fast)]
    plan = for_pipeline(stages, micro_batches=12)
    assert plan.slowdown == pytest.approx(0.0, abs=1e-9) and plan.saving > 0.05
    assert plan.settings[1] == (1400, 1400, 1400, 1400)  # the bottleneck stays fast
    assert plan.settings[0][0] < 1400
    wider = for_pipeline(stages, micro_batches=12, bound=0.25)
    assert wider.saving > plan.saving and wider.slowdown <= 0.25 + 1e-9
    with pytest.raises(ValueError, match="a pipeline needs a stage and a micro-batch"):
        for_pipeline([], micro_batches=4)
