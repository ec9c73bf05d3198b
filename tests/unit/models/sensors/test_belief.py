"""Counters, bounds, and who is believed where sensors disagree."""

from __future__ import annotations

import pytest

from models.sensors.bounds import check_power
from models.sensors.counter import Counter, believe_counter
from models.sensors.reconcile import Witness, disagreement, parts_against_whole, reconcile


def test_a_counter_adds_up_over_wraps_and_not_over_resets() -> None:
    rapl = Counter(range_j=1000.0, kind="cpu_package")
    steps = [rapl.step(float(n), raw) for n, raw in enumerate((900.0, 980.0, 60.0, 160.0, 20.0, 50.0))]
    assert [step.event for step in steps] == ["first", "ok", "wrap", "ok", "reset", "ok"]
    assert (rapl.total_j, rapl.wraps, rapl.resets) == (80.0 + 80.0 + 100.0 + 30.0, 1, 1)


def test_nvmls_counter_does_not_wrap_so_that_going_back_is_a_reset() -> None:
    nvml = Counter()
    assert [nvml.step(float(n), raw).event for n, raw in enumerate((5e6, 10.0, 310.0))] == ["first", "reset", "ok"]
    assert nvml.total_j == 300.0


@pytest.mark.parametrize(
    ("at_s", "raw_j", "event"), [(1.0, 1e9, "implausible"), (0.0, 500.0, "implausible"), (1.0, 100.0, "standing")]
)
def test_leaps_and_clocks_that_stand(at_s: float, raw_j: float, event: str) -> None:
    counter = Counter()
    counter.step(0.0, 100.0)
    assert counter.step(at_s, raw_j).event == event
    assert counter.total_j == 0.0


def test_a_wrap_that_would_need_too_much_power_is_a_reset() -> None:
    counter = Counter(range_j=1e6)
    counter.step(0.0, 6e5)
    assert (counter.step(1.0, 10.0).event, counter.wraps, counter.resets) == ("reset", 0, 1)


@pytest.mark.parametrize(
    ("counter_j", "integral_j", "believed", "quality", "words"),
    [
        (1000.0, 960.0, "counter", "measured", "agree within 4.0%"),
        (0.0, 1000.0, "integral", "estimated", "The counter stood still for 10.0 s while 100 W were read."),
        (1.0, 1000.0, "integral", "estimated", "1,000 times too small"),
        (1_000_000.0, 1000.0, "integral", "estimated", "1,000 times too large"),
        (
            1000.0,
            760.0,
            "counter",
            "estimated",
            "24% apart; readings see a part of the time and alias on a pulsed load",
        ),
        (1000.0, 300.0, "the higher one", "estimated", "contradict each other: neither is sure"),
        (None, 1000.0, "integral", "estimated", "no usable counter"),
        (1000.0, None, "counter", "measured", "Too little power was read"),
        (None, None, None, "estimated", "Neither"),
    ],
)
def test_counter_against_integral(
    counter_j: float | None, integral_j: float | None, believed: str | None, quality: str, words: str
) -> None:
    belief = believe_counter(counter_j, integral_j, elapsed_s=10.0)
    assert (belief.believed, belief.quality) == (believed, quality)
    assert words in belief.reason


@pytest.mark.parametrize(
    ("value", "kind", "limit_w", "kept", "words"),
    [
        (412.0, "gpu", 700.0, 412.0, None),
        (0.0, "gpu", None, 0.0, None),
        (412_345.0, "gpu", 700.0, None, "in milliwatts it would be 412.345 W"),
        (160_000.0, "chassis", None, None, "160000 W is above the 30000 W that a chassis can draw"),
        (1500.0, "gpu", 700.0, None, "above the 1400 W"),
        (-3.0, "gpu", None, None, "is no power"),
        (float("nan"), "gpu", None, None, "is no power"),
        (None, "gpu", None, None, None),
    ],
)
def test_plausible_power(
    value: float | None, kind: str, limit_w: float | None, kept: float | None, words: str | None
) -> None:
    checked = check_power(value, kind=kind, limit_w=limit_w)  # type: ignore[arg-type]
    assert checked.power_w == kept
    assert checked.warning is None if words is None else words in (checked.warning or "")


@pytest.mark.parametrize(
    ("a", "b", "apart"), [(100.0, 108.0, 8 / 15), (400.0, 440.0, 40 / 44), (400.0, 500.0, 2.0), (None, 5.0, None)]
)
def test_disagreement_in_units_of_what_is_allowed(a: float | None, b: float | None, apart: float | None) -> None:
    assert disagreement(a, b) == (None if apart is None else pytest.approx(apart))
    assert disagreement(b, a) == disagreement(a, b)


def heard(**powers: float | None) -> list[Witness]:
    return [Witness(source=source, power_w=power) for source, power in powers.items()]


def test_agreeing_sensors_the_nearest_to_the_device_is_taken() -> None:
    belief = reconcile(heard(redfish=410.0, nvml=400.0))
    assert (belief.value, belief.believed, belief.quality) == (400.0, "nvml", "measured")
    assert belief.reason == "All agree; nvml is nearest to the device."


def test_disagreeing_sensors_the_counter_decides() -> None:
    belief = reconcile(heard(nvml=400.0, redfish=600.0), counter_w=590.0)
    assert (belief.value, belief.believed) == (600.0, "redfish")
    assert belief.reason == (
        "nvml 400 W and redfish 600 W disagree; redfish is believed, the energy counter says 590 W."
    )
    assert (belief.disagreement_ratio or 0) > 1


def test_disagreeing_sensors_without_an_arbiter_the_higher_is_taken_as_estimated() -> None:
    belief = reconcile(heard(nvml=400.0, redfish=600.0))
    assert (belief.value, belief.believed, belief.quality) == (600.0, "redfish", "estimated")
    assert "nothing tells who is right" in belief.reason


def test_a_powered_device_does_not_draw_nothing() -> None:
    belief = reconcile(heard(nvml=400.0, redfish=0.0))
    assert (belief.value, belief.believed) == (400.0, "nvml")


def test_absurd_and_stale_witnesses_are_not_heard_and_named() -> None:
    witnesses = [*heard(nvml=412_345.0), Witness(source="redfish", power_w=100.0, age_s=60), *heard(ipmi=410.0)]
    belief = reconcile(witnesses, limit_w=700.0)
    assert (belief.value, belief.believed) == (410.0, "ipmi")
    assert belief.reason.startswith("Only ipmi gave a usable power. nvml: 412345 W is above the 1400 W")
    assert "redfish is 60 s old, more than 30 s, and not heard." in belief.reason
    assert reconcile([]).reason == "No sensor gave a power."


def test_an_estimate_is_not_preferred_to_a_measurement() -> None:
    witnesses = [Witness(source="nvml", power_w=100.0, quality="estimated"), *heard(redfish=105.0)]
    assert reconcile(witnesses).believed == "redfish"


def test_parts_never_draw_more_than_their_whole() -> None:
    good = parts_against_whole([300.0, 300.0, None], 1000.0)
    assert (good.believed, good.value, good.quality) == ("the chassis", 1000.0, "measured")
    assert "2 parts draw 600 W of the 1000 W" in good.reason
    bad = parts_against_whole([300.0, 300.0], 500.0)
    assert (bad.believed, bad.value, bad.quality) == ("parts", 600.0, "estimated")
    assert parts_against_whole([], 500.0).value == 500.0
    assert parts_against_whole([None], None).believed is None
