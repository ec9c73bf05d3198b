"""Telling Alertmanager: all that fires, again and again, the end too, through outages on either side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from streams.sinks import alertmanager
from streams.sinks.address_guard import Allowed, Refused, check
from streams.sinks.alertmanager import Teller
from streams.sinks.http_post import Answer
from streams.sinks.outbox import Outbox
from streams.sinks.silences import Silence
from tests.unit.sinks.deliver_support import T0_S, Clock, alert


@dataclass
class FakeAlertmanager:
    """Named fault: `status` is what it answers, None = it is away."""

    clock: Clock
    status: int | None = 200
    got: list[list[dict[str, Any]]] = field(default_factory=list)
    tries: int = 0

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, allowed: Allowed) -> Answer:
        assert url == "http://am:9093/api/v2/alerts"
        self.tries += 1
        if self.status == 200:
            self.got.append(json.loads(body))
        return Answer(self.status, "", 1.0)


class Rig:
    def __init__(self, folder: Path) -> None:
        self.clock, self.silences = Clock(), list[Silence]()
        self.far = FakeAlertmanager(self.clock)
        self.box = Outbox(folder / "o.sqlite")
        self.begin()

    def begin(self) -> None:
        self.teller = Teller("http://am:9093", self.box, self.far.post, lambda: self.silences, self.clock)

    def news(self, subject: str, state: str = "firing", **more: Any) -> None:
        self.box.take([alert(subject, state, at_s=self.clock.now_s, **more)], [], [], now_s=self.clock.now_s)
        self.teller.changed()

    def until(self, seconds: float) -> None:
        """Steps as the job's thread does."""
        end_s = T0_S + seconds
        for _ in range(10_000):
            due_s = self.teller.step()
            if due_s > end_s:
                self.clock.now_s = end_s
                return
            self.clock.now_s = max(self.clock.now_s, due_s)
        raise AssertionError("the teller never rests")


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def test_what_fires_is_told_at_once_and_again_every_minute(rig: Rig) -> None:
    rig.news("n1")
    rig.until(0)
    [[one]] = rig.far.got
    assert one["labels"]["alertname"] == "high_energy" and one["labels"]["node"] == "n1"
    assert one["startsAt"] == "2023-11-14T22:13:20.000Z" and one["endsAt"] == "2023-11-14T22:17:20.000Z"
    assert (
        one["annotations"]["runbook"] == "docs/runbooks/high_energy.md"
        and "power_w 4000" in one["annotations"]["evidence"]
    )
    rig.until(600)
    assert len(rig.far.got) == 11


def test_the_end_is_told_with_its_time_and_the_same_labels_and_then_no_more(rig: Rig) -> None:
    rig.news("n1")
    rig.until(30)
    rig.news("n1", "resolved")
    rig.until(31)
    assert rig.far.got[1][0]["endsAt"] == "2023-11-14T22:13:50.000Z"
    assert rig.far.got[1][0]["labels"] == rig.far.got[0][0]["labels"]
    rig.until(30 + 3600)
    assert 14 <= len(rig.far.got) <= 18, "a quarter of an hour, as Prometheus does"


def test_an_outage_on_its_side_costs_seldom_tries_and_nothing_else(rig: Rig) -> None:
    rig.far.status = None
    rig.news("n1")
    rig.until(1800)
    rig.news("n2")
    rig.news("n1", "resolved")
    rig.until(3600)
    assert rig.far.got == [] and rig.far.tries < 80
    rig.far.status = 200
    rig.until(3700)
    told = {entry["labels"]["node"]: entry["endsAt"] for entry in rig.far.got[-1]}
    assert told.keys() == {"n2"} or told["n1"] < told["n2"], "n1 ended half an hour ago"


def test_an_outage_on_our_side_is_made_good_by_the_file(rig: Rig) -> None:
    rig.news("n1")
    rig.clock.now_s += 500
    rig.begin()  # killed before it told anything
    rig.until(501)
    assert rig.far.got[0][0]["labels"]["node"] == "n1"


def test_a_refusal_is_tried_again_and_many_go_in_parts(rig: Rig) -> None:
    rig.far.status = 400
    for number in range(150):
        rig.news(f"n{number}")
    rig.until(10)
    rig.far.status = 200
    rig.until(60)
    assert sorted(len(part) for part in rig.far.got[:3]) == [22, 64, 64]


def test_what_is_silenced_here_is_not_told_there(rig: Rig) -> None:
    begin, end = int(T0_S * 1e9), int((T0_S + 90) * 1e9)
    rig.silences.append(Silence(id="s", until_ns=end, created_ns=begin, by="me", rule="high_*"))
    rig.news("n1")
    rig.until(80)
    assert rig.far.got == []
    rig.until(130)
    assert rig.far.got[0][0]["labels"]["node"] == "n1", "the silence is over and it still fires"


def test_its_own_address_is_allowed_and_no_other() -> None:
    rule = alertmanager.allowed("http://127.0.0.1:9093/am/")
    assert alertmanager.endpoint("http://127.0.0.1:9093/am/") == "http://127.0.0.1:9093/am/api/v2/alerts"
    assert alertmanager.endpoint("http://h/api/v2/alerts") == "http://h/api/v2/alerts"
    assert check("http://127.0.0.1:9093/", rule).address == "127.0.0.1"
    with pytest.raises(Refused):
        check("http://127.0.0.2:9093/", rule)
    with pytest.raises(Refused):
        check("http://127.0.0.1:9094/", rule)
