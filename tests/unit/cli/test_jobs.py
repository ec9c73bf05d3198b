"""What looks at the stream jobs mean: dead, stuck, idle, behind, unknown."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from agents.cli.jobs import STALL_S, JobLook, JobProbe, JobWatch, _Ends, judge
from agents.cli.lag import INPUTS
from agents.cli.status import text
from streams.contract.kafka import commit_note, committed_ns
from streams.contract.topics import ALERT, DESIRED
from streams.jobs.registry import JOBS
from tests.fakes.gateway_rig import Clock

NOW_NS = 1_790_000_000_000_000_000
WELL = JobLook("deliver", "eo-c-deliver", 1, 0, 0, {("t", 0): 5}, NOW_NS - 3 * 10**9)


def look(**facts: Any) -> JobLook:
    return dataclasses.replace(WELL, **facts)


@pytest.mark.parametrize(
    ("facts", "live", "ready", "told"),
    [
        ({}, True, True, None),
        ({"committed_ns": NOW_NS - 7200 * 10**9}, True, True, None),  # nothing waits: idle for hours is well
        ({"lag_records": 900, "overdue_records": 900}, True, True, None),  # far behind, and its commits move
        ({"members": 0}, False, False, "no worker is in its group eo-c-deliver; start it with `eo worker deliver`"),
        (
            {"lag_records": 7, "overdue_records": 2, "committed_ns": NOW_NS - 75 * 10**9},
            True,
            False,
            "7 records wait and nothing was committed for 75 s; "
            "its log says why, and `eo worker deliver` starts it anew",
        ),
        (
            {"lag_records": 7, "overdue_records": 0, "committed_ns": NOW_NS - 7200 * 10**9},
            True,
            True,
            None,
        ),  # just came
        (
            {"lag_records": 7, "overdue_records": 7, "committed_ns": None},
            True,
            False,
            "7 records wait and nothing was committed ever; its log says why, and `eo worker deliver` starts it anew",
        ),
        ({"members": None, "problem": "no right"}, None, None, "no right"),
        ({"lag_records": None, "problem": "no right"}, True, None, "no right"),
    ],
)
def test_a_look_is_judged(facts: dict[str, Any], live: bool | None, ready: bool | None, told: str | None) -> None:
    health = judge(look(**facts), NOW_NS)
    assert (health.live, health.ready, health.problem) == (live, ready, told)


def test_an_unknown_age_is_null_and_a_clock_ahead_is_no_negative_age() -> None:
    assert judge(look(committed_ns=None), NOW_NS).age_s is None
    assert judge(look(committed_ns=NOW_NS + 10**9), NOW_NS).age_s == 0.0


def test_a_watch_sees_what_stands_still_even_when_a_clock_ahead_hides_its_age() -> None:
    clock = Clock()
    watch = JobWatch(wall_ns=lambda: NOW_NS, monotonic=clock.monotonic)
    still = look(lag_records=3, overdue_records=0, committed_ns=NOW_NS + 3600 * 10**9)
    assert watch.judge([still])[0].ready is True
    clock.seconds += STALL_S - 1
    assert watch.judge([still])[0].ready is True
    clock.seconds += 1
    (stuck,) = watch.judge([still])
    assert stuck.ready is False and "nothing was committed for 60 s" in (stuck.problem or "")
    moved = dataclasses.replace(still, committed={("t", 0): 6})
    assert watch.judge([moved])[0].ready is True


def test_a_watch_counts_no_idle_time() -> None:
    clock = Clock()
    watch = JobWatch(wall_ns=lambda: NOW_NS, monotonic=clock.monotonic)
    watch.judge([WELL])
    clock.seconds += 10 * STALL_S
    watch.judge([WELL])
    clock.seconds += 5
    assert watch.judge([look(lag_records=3)])[0].ready is True  # three records came a moment ago


def test_what_waits_is_counted_from_the_commit_and_old_by_its_time() -> None:
    ends = object.__new__(_Ends)
    plain, special = (ALERT.name, 0), (DESIRED.name, 0)
    ends._end, ends._low = {plain: 100, special: 100}, {plain: 10, special: 10}
    ends._fresh = {plain: 90, special: -1}
    assert ends.behind(plain, 100) == (0, 0)
    assert ends.behind(plain, 95) == (5, 0)
    assert ends.behind(plain, 80) == (20, 10)
    assert ends.behind(plain, None) == (90, 80)  # what retention took does not wait
    assert ends.behind(special, 99) == (0, 0)  # the marker of the last transaction
    assert ends.behind(special, 90) == (10, 0)  # perhaps markers only
    assert ends.behind((ALERT.name, 7), None) == (0, 0)
    ends._fresh = {plain: -1, special: 95}
    assert ends.behind(plain, 80) == (20, 20)  # nothing came lately, and twenty wait
    assert ends.behind(special, 90) == (10, 5)


def test_commits_carry_their_time_and_foreign_notes_are_unknown() -> None:
    assert committed_ns(commit_note(NOW_NS)) == committed_ns(commit_note(NOW_NS) + "garbage") == NOW_NS
    for note in (None, "", "eo1", "eo1 x", "eo1 -5", "eo2 5", "eo1 " + "9" * 30, "metadata"):
        assert committed_ns(note) is None


def test_without_a_broker_nothing_is_known_and_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.cli.jobs.ASK_S", 0.2)
    looks = JobProbe("127.0.0.1:1", "c", ("features", "deliver")).look()
    assert [one.job for one in looks] == ["features", "deliver"]
    assert all(one.members is None and "cannot be asked" in (one.problem or "") for one in looks)


def test_status_has_a_line_for_each_job() -> None:
    facts = {
        "broker": {"label": "b", "bootstrap": "h:1"},
        "processes": {},
        "jobs": {
            one.job: dataclasses.asdict(judge(one, NOW_NS))
            for one in (WELL, look(job="features", members=0), look(job="ledger", members=None, problem="no right"))
        },
        "nodes_seen": 0,
        "modes": [],
        "strategies": [],
        "leases_live": 0,
        "leases_over": 0,
        "caps_in_force": 0,
        "lag_s": None,
        "plans": [],
        "plan_problem": None,
        "devices_changed": None,
    }
    lines = text(facts).splitlines()
    assert any(line.split()[:6] == ["deliver", "runs", "0", "3", "s", "ago"] for line in lines)
    assert any(line.startswith("features") and "DEAD" in line and "eo worker features" in line for line in lines)
    assert any(line.startswith("ledger") and "unknown" in line for line in lines)


def test_every_job_of_the_registry_is_looked_at() -> None:
    assert set(INPUTS) == set(JOBS)
