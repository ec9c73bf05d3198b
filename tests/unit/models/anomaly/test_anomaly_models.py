"""The detectors by themselves: what they flag, when they are silent, and that their state is numbers."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.anomaly.confirm import KofN, Silence, verdict_id
from models.anomaly.half_space import BESIDE_PEERS, Forest, ForestState
from models.anomaly.metrics import METRICS, Metric
from models.anomaly.peers import LEAST_PEERS, Peers
from models.anomaly.robust import RobustZ

UP = Metric("m", "m", "none", 1.0, False, "alert")
BOTH = Metric("m", "m", "none", 1.0, True, "alert")
ROW = np.array([0], dtype=np.intp)


def feed(robust: RobustZ, *values: float) -> tuple[float, bool]:
    robust.reserve(1)
    z, confirmed = np.zeros((1, 1)), np.zeros((1, 1), dtype=bool)
    for value in values:
        z, confirmed = robust.update(ROW, np.array([[value]]))
    return float(z[0, 0]), bool(confirmed[0, 0])


def test_silent_until_the_past_is_known() -> None:
    robust = RobustZ([BOTH], warmup=24)
    z, confirmed = feed(robust, *[10.0] * 20, *[1e6] * 4)
    assert np.isnan(z) and not confirmed


def test_a_lasting_exceedance_is_confirmed_and_a_spike_is_not() -> None:
    robust = RobustZ([BOTH], k=4, n=5)
    feed(robust, *[10.0, 11.0] * 20)
    assert feed(robust, 50.0) == (pytest.approx(39.5 / 1.0, rel=0.3), False)
    assert feed(robust, 10.0, 50.0, 50.0)[1] is False
    assert feed(robust, 50.0)[1] is True


def test_small_deviations_are_never_strange_however_steady_the_past() -> None:
    robust = RobustZ([BOTH], threshold=8.0)
    feed(robust, *[10.0] * 40)
    assert feed(robust, *[17.9] * 6) == (pytest.approx(7.9), False)


def test_downwards_counts_only_where_it_should() -> None:
    for metric, expected in ((UP, False), (BOTH, True)):
        robust = RobustZ([metric])
        feed(robust, *[100.0] * 40)
        assert feed(robust, *[0.0] * 5)[1] is expected


def test_a_lasting_shift_becomes_the_new_usual() -> None:
    robust = RobustZ([BOTH], window=64)
    feed(robust, *[10.0] * 64)
    assert feed(robust, *[100.0] * 40)[1] is False


def test_a_baseline_survives_as_numbers() -> None:
    robust, again = RobustZ([BOTH]), RobustZ([BOTH])
    feed(robust, *[10.0, 12.0] * 30)
    saved = json.loads(json.dumps(robust.baseline(ROW).tolist()))
    again.reserve(1)
    again.restore(ROW, np.array(saved))
    assert feed(again, *[100.0] * 5)[1] is True
    again.forget(ROW)
    assert np.isnan(feed(again, 5.0)[0])


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=3, max_size=3), min_size=1, max_size=80)
)
def test_the_median_agrees_with_numpy(past: list[list[float]]) -> None:
    robust = RobustZ([BOTH, UP, BOTH], window=64, warmup=1)
    robust.reserve(1)
    for values in past:
        robust.update(ROW, np.array([values]))
    kept = np.array(past[-64:])
    for column in range(3):
        known = kept[np.isfinite(kept[:, column]), column]
        median = robust.baseline(ROW)[0, column, 0]
        assert median == pytest.approx(np.median(known)) if len(known) else np.isnan(median)


@given(st.lists(st.tuples(st.integers(-1, 3), st.floats(-1e3, 1e3) | st.just(float("nan"))), max_size=40))
def test_peers_agree_with_a_plain_loop(rows: list[tuple[int, float]]) -> None:
    group = np.array([g for g, _ in rows], dtype=np.int64)
    values = np.array([v for _, v in rows]).reshape(-1, 1)
    found = Peers(group).median(values)
    for i, (own, _) in enumerate(rows):
        known = [v for g, v in rows if g == own and np.isfinite(v)]
        if own >= 0 and len(known) >= LEAST_PEERS:
            assert found[i, 0] == pytest.approx(np.median(known))
        else:
            assert np.isnan(found[i, 0])


def usual(random: np.random.Generator) -> dict[str, float]:
    values = random.normal([1.0, 1.0, 0.0, 0.0], [0.02, 0.01, 0.02, 0.3])
    return dict(zip(BESIDE_PEERS, values.tolist(), strict=True))


STRANGE = {**dict.fromkeys(BESIDE_PEERS, 1.0), "sm_ratio_to_peers": 0.55, "util_over_peers": 0.8}


def taught(rows: int = 1500) -> Forest:
    random, forest = np.random.default_rng(1), Forest(BESIDE_PEERS)
    for _ in range(rows):
        forest.score(usual(random))
    return forest


def test_a_forest_is_silent_for_two_windows_and_then_knows_the_rare() -> None:
    assert Forest(BESIDE_PEERS).score(STRANGE) == 0.0
    forest, random = taught(), np.random.default_rng(2)
    ordinary = [forest.score(usual(random)) for _ in range(500)]
    assert max(ordinary) < forest.threshold < forest.score(STRANGE)


def test_a_forest_s_state_is_numbers_and_scores_the_same() -> None:
    forest = taught()
    text = json.dumps(asdict(forest.state()))
    raw = json.loads(text)
    for part in ("reference", "latest"):
        raw[part] = [{int(k): v for k, v in tree.items()} for tree in raw[part]]
    again = Forest(BESIDE_PEERS)
    again.restore(ForestState(**raw))
    random = np.random.default_rng(3)
    rows = [usual(random) for _ in range(700)] + [STRANGE]
    assert [again.score(x) for x in rows] == [forest.score(x) for x in rows]


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="1 saved trees, 10 expected"):
        Forest(BESIDE_PEERS).restore(ForestState(0, 2, [{}], [{}]))
    with pytest.raises(ValueError, match=r"belongs to node 100000 of \d+"):
        Forest(BESIDE_PEERS).restore(ForestState(0, 2, [{100_000: 1}] * 10, [{}] * 10))


def test_k_of_n() -> None:
    rule = KofN(3, 5)
    assert [rule.hit("a", over) for over in (True, True, False, True, False, True)] == [
        False,
        False,
        False,
        True,
        False,
        True,
    ]
    assert rule.suspects() == ["a"]
    for _ in range(5):
        rule.hit("a", False)
    assert rule.suspects() == []


def test_one_fault_speaks_once_in_a_while() -> None:
    silence = Silence(100)
    assert [silence.speak("a", t) for t in (0, 50, 99, 100, 150)] == [True, False, False, True, False]
    assert silence.speak("b", 50)
    silence.prune(1000)
    assert silence.speak("a", 1000)


def test_the_same_evidence_has_the_same_id() -> None:
    assert verdict_id("c", "n", "g", 5) == verdict_id("c", "n", "g", 5)
    assert len({verdict_id("c", "n", "g", i) for i in range(1000)}) == 1000
    assert verdict_id("ab", "c") != verdict_id("a", "bc")


def test_throttling_by_our_own_limits_is_not_judged() -> None:
    assert not [m for m in METRICS if "throttle" in m.feature]
