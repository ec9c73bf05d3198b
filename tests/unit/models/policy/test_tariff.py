"""Price and carbon: what holds when, what a watt weighs, and that nothing is made up beyond the file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as hyp

from models.policy.tariff import CARBON, PRICES, WEIGHTS, Series, Tariff, parse

DAY = "timestamp_s,eur_per_kwh\n1000,0.10\n4600,0.30\n8200,0.20\n"


def test_a_value_holds_until_the_next_and_nothing_is_invented() -> None:
    series = parse(DAY, tuple(PRICES))
    assert [series.at(t) for t in (999, 1000, 4599, 4600, 11_799, 11_800)] == [None, 0.10, 0.10, 0.30, 0.20, None]
    assert series.at(float("nan")) is None and series.mean == pytest.approx(0.20)
    assert Series("eur_per_kwh", (0.0, 1e6), (1.0, 2.0)).at(90_000.0) is None  # a gap of days is a gap


def test_iso_times_and_dollars_are_read() -> None:
    series = parse(
        "x,timestamp_s,usd_per_kwh\n1,2026-11-26T16:00:00Z,0.1\n2,2026-11-26T18:00:00+01:00,0.2\n", tuple(PRICES)
    )
    assert series.unit == "usd_per_kwh" and series.times_s[1] - series.times_s[0] == 3600


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "its header is ''"),
        ("time,price\n", "its header is 'time,price'; give timestamp_s and one of eur_per_kwh, usd_per_kwh"),
        ("timestamp_s,eur_per_kwh\n", "a header and no row"),
        ("timestamp_s,eur_per_kwh\n5,ten", "row 2 is '5,ten'; give a time and a number"),
        ("timestamp_s,eur_per_kwh\n5", "row 2 is '5'"),
        ("timestamp_s,eur_per_kwh\n5,nan", "row 2 says nan eur_per_kwh; give -10 to 100"),
        ("timestamp_s,eur_per_kwh\n-5,1", "-5 is no Unix time"),
        ("timestamp_s,eur_per_kwh\n2026-11-26T16:00:00,1", "has no offset"),
        ("timestamp_s,eur_per_kwh\n9,1\n5,1", "row 3 is at 5 s, not after 9 s; sort the rows by time"),
    ],
)
def test_a_wrong_file_is_refused_with_its_row(text: str, words: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text, tuple(PRICES))
    assert words in str(caught.value)


def test_without_a_series_everything_is_null_and_a_watt_weighs_one() -> None:
    now = Tariff().now(5000.0)
    assert (now.price_per_kwh, now.currency, now.g_per_kwh, now.weight) == (None, None, None, 1.0)
    assert now.cost_per_h(1000.0) is None and now.carbon_g_per_h(1000.0) is None


def test_a_watt_weighs_its_price_over_the_mean_and_carbon_adds_to_it() -> None:
    price = parse(DAY, tuple(PRICES))
    carbon = parse("timestamp_s,g_per_kwh\n1000,600\n4600,200\n8200,100\n", (CARBON,))
    assert Tariff(price).now(5000.0).weight == pytest.approx(1.5)
    assert Tariff(carbon=carbon).now(1000.0).weight == pytest.approx(2.0)
    both = Tariff(price, carbon, carbon_price_per_kg=1.0)
    assert both.now(1000.0).weight == pytest.approx((0.1 + 0.6) / (0.2 + 0.3))
    assert both.now(1000.0).cost_per_h(2000.0) == pytest.approx(0.2)
    assert both.now(1000.0).carbon_g_per_h(2000.0) == pytest.approx(1200.0)
    assert Tariff(price).now(99_999.0).weight == 1.0  # after the end: unknown, so no weight


@given(hyp.lists(hyp.floats(-10, 100), min_size=2, max_size=9), hyp.floats(-10, 1e5))
def test_no_price_makes_a_watt_worthless_or_priceless(values: list[float], now_s: float) -> None:
    series = Series("eur_per_kwh", tuple(float(k * 3600) for k in range(len(values))), tuple(values))
    assert WEIGHTS[0] <= Tariff(series).now(now_s).weight <= WEIGHTS[1]
