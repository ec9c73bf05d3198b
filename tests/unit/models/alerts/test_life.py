"""The life of an alert: k of n, once, resolved once, never by what is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from models.alerts.life import Book, Change, Finding, alert_id
from models.alerts.rule import Rule, parse, render

S = 10**9
BASE = {"kind": "power", "severity": "warning", "runbook": "r.md", "sql": "q", "action": "a", "undo": "u"}


def rule(**more: object) -> Rule:
    values = {**BASE, "summary": "{subject} draws {value:.1f} W", "threshold": 100.0, "clear": 90.0, "k": 3, "n": 5}
    return parse("hot", {**values, **more})


def feed(book: Book, one: Rule, values: list[float | None], *, start: int = 0, step_s: int = 5) -> list[Change | None]:
    return [
        book.take(one, Finding("n1", (start + i * step_s + 1) * S, value, node="n1")) for i, value in enumerate(values)
    ]


def states(changes: list[Change | None]) -> list[str | None]:
    return [None if one is None else one.state for one in changes]


def test_it_fires_once_at_the_kth_exceedance_of_n_and_is_resolved_once() -> None:
    changes = feed(Book(), rule(), [120, 120, 50, 120, 130, 120, 50, 50, 50, 50])
    assert states(changes) == [None, None, None, "firing", None, None, None, None, "resolved", None]
    fired, ended = changes[3], changes[8]
    assert fired and ended and fired.started_ns == ended.started_ns == 1 * S, "it began with the first exceedance"


def test_fewer_than_k_of_n_stay_silent() -> None:
    assert set(states(feed(Book(), rule(), [120, 50, 50, 50, 120, 50, 50, 120, 50]))) == {None}


def test_between_the_two_bounds_nothing_changes() -> None:
    book = Book()
    assert states(feed(book, rule(), [120, 120, 120]))[-1] == "firing"
    assert set(states(feed(book, rule(), [95] * 20, start=15))) == {None}, "95 is below 100 and above 90"
    assert states(feed(book, rule(), [90], start=200)) == ["resolved"]


def test_the_unknown_neither_confirms_nor_resolves() -> None:
    book = Book()
    assert set(states(feed(book, rule(), [120, None, None, 120, None]))) == {None}
    assert states(feed(book, rule(), [120], start=40)) == ["firing"]
    assert set(states(feed(book, rule(), [None] * 20, start=50))) == {None}
    assert book.firing()


def test_a_subject_is_judged_at_most_every_so_often_and_never_backwards() -> None:
    book = Book()
    assert set(states(feed(book, rule(), [120] * 9, step_s=0))) == {None}, "one time, one evaluation"
    assert book.take(rule(), Finding("n1", 0, 120.0)) is None


def test_a_clock_that_was_wrong_does_not_silence_a_node_for_ever() -> None:
    book = Book()
    book.take(rule(), Finding("n1", 10**9 * S, 120.0))
    assert states(feed(book, rule(), [120, 120]))[-1] == "firing"


def test_without_data_it_is_resolved_and_says_so() -> None:
    book, one = Book(), rule(stale_s=60.0)
    feed(book, one, [120, 120, 120])
    assert list(book.due({"hot": one}, 70 * S)) == []
    [change] = book.due({"hot": one}, 72 * S)
    assert (change.state, change.why, change.started_ns) == ("resolved", "no data", 1 * S)
    assert list(book.due({"hot": one}, 999 * S)) == []


def test_an_event_fires_at_once_and_ends_by_time_or_by_good_news() -> None:
    one = parse(
        "ev", {**BASE, "kind": "event", "summary": "{subject}: {reason}", "options": {"hold_s": 10, "events": ["x"]}}
    )
    book = Book()
    fired = book.take(one, Finding("g", 5 * S, None, over=True))
    assert fired is not None and fired.state == "firing"
    assert book.take(one, Finding("g", 9 * S, None, over=True)) is None, "the same again is no news"
    assert list(book.due({"ev": one}, 18 * S)) == [], "and holds it open"
    assert [c.why for c in book.due({"ev": one}, 19 * S)] == ["over"]
    book.take(one, Finding("g", 30 * S, None, over=True))
    ended = book.take(one, Finding("g", 31 * S, None, over=False))
    assert ended is not None and ended.state == "resolved" and not book.entries


def test_good_news_of_nothing_is_not_remembered() -> None:
    book = Book()
    assert book.take(rule(), Finding("n1", S, 10.0)) is None and not book.entries


def test_the_rule_that_went_away_ends_its_alerts_quietly() -> None:
    book = Book()
    feed(book, rule(), [120, 120, 120])
    assert [c.why for c in book.due({}, 20 * S)] == ["the rule is no longer there"] and not book.entries


def test_a_node_that_is_gone_takes_its_alerts_with_it() -> None:
    book = Book()
    feed(book, rule(), [120, 120, 120])
    assert [c.why for c in book.drop("n1", 50 * S)] == ["the node is gone"] and not book.entries


def test_identity_depends_on_everything_that_makes_it_another_alert() -> None:
    ids = {alert_id("c", "r", "s", 1), alert_id("c2", "r", "s", 1), alert_id("c", "r2", "s", 1)}
    assert len(ids | {alert_id("c", "r", "s2", 1), alert_id("c", "r", "s", 2), alert_id("c", "r", "s", 1)}) == 5


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"kind": "pwer"}, "rule hot: kind is 'pwer'; did you mean 'power'?"),
        ({"severity": "bad"}, "rule hot: severity is 'bad'; one of info, warning, critical"),
        ({"treshold": 3}, "rule hot: 'treshold' is no field of a rule; did you mean 'threshold'?"),
        ({"threshold": float("nan")}, "rule hot: threshold is nan; write a finite number"),
        ({"threshold": True}, "rule hot: threshold is True; write a finite number"),
        ({"clear": 101.0}, "rule hot: clear 101.0 must not be above threshold 100.0"),
        ({"k": 6}, "rule hot: k is 6 and n is 5; 1 <= k <= n <= 60 must hold"),
        ({"summary": ""}, "rule hot: summary is ''; write one sentence or name"),
        ({"runbook": None}, "rule hot: runbook is None; write one sentence or name"),
        ({"options": {"colour": 1}}, "rule hot: 'colour' is no option of kind power; known: relative_to_limit"),
        ({"options": {"relative_to_limit": "x"}}, "option relative_to_limit is 'x'; write a number >= 0"),
        ({"options": {"window_s": 1}}, "rule hot: window_s is 1; samples come each second, write >= 2"),
        ({"options": 3}, "rule hot: options is 3; write a table [options]"),
        ({"summary": "{subject.__class__}"}, "may hold {name} or {name:.1f} only"),
        ({"summary": "{"}, "may hold {name} or {name:.1f} only"),
        ({"summary": "{value:zz}"}, "cannot be filled in"),
        ({"stale_s": 0.0}, "rule hot: every_s must be >= 0 and stale_s > 0"),
    ],
)
def test_a_wrong_rule_is_refused_with_the_next_step(wrong: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError) as caught:
        rule(**wrong)
    assert text in str(caught.value)


def test_a_bad_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a name is a-z, 0-9 and _"):
        parse("Hot One", {**BASE, "summary": "x"})


def test_a_number_that_the_evidence_lacks_shows_as_a_question_mark() -> None:
    text = replace(rule(), summary="{subject} has {watts:.1f} of {threshold:.0f}")
    assert render(text, "n1", None, {"watts": None}) == "n1 has ? of 100"
