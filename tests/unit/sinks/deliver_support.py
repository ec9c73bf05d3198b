"""Stand-ins of the tests of delivery: alerts, a clock, a receiver that is away and comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from streams.contract.records import Alert
from streams.sinks.address_guard import Allowed
from streams.sinks.http_post import Answer
from streams.sinks.outbox import Outbox
from streams.sinks.receivers import Receiver, new_secret
from streams.sinks.webhook import Courier

T0_S = 1_700_000_000.0
SECRET = new_secret()


def alert(subject: str = "n1", state: str = "firing", *, number: int = 1, at_s: float = T0_S, **more: object) -> Alert:
    """One state of one alert; `number` tells the firings of a subject apart."""
    values = {"cluster": "c1", "node": subject, "rule": "high_energy", "severity": "warning", "quality": "simulated"}
    return Alert(
        **{**values, **more},  # type: ignore[arg-type]  # values of the record's own types
        alert_id=f"{subject}-{number}",
        state=state,  # type: ignore[arg-type]  # a literal by the caller's word
        ts_ns=int(at_s * 1e9),
        started_ns=int(T0_S * 1e9),
        summary=f"{subject} draws 4,000 W",
        evidence={"power_w": 4000.0, "limit_w": None},
        runbook="docs/runbooks/high_energy.md",
        sql="power_by_node_hour",
        action="nothing",
        undo="nothing was changed",
        group="energy",
        labels={"subject": subject},
    )


@dataclass
class Clock:
    now_s: float = T0_S

    def __call__(self) -> float:
        return self.now_s


@dataclass
class FakeReceiver:
    """Named faults: `away` = no connection, `status` = it answers this, `sick` = it refuses these subjects."""

    clock: Clock
    away: bool = False
    status: int = 200
    sick: frozenset[str] = frozenset()
    retry_after_s: float | None = None
    got: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    tries: list[float] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def post(self, url: str, body: bytes, headers: Mapping[str, str], *, allowed: Allowed) -> Answer:
        self.tries.append(self.clock.now_s)
        self.headers.append(dict(headers))
        if self.away:
            return Answer(None, "ConnectError: nobody there", 1.0)
        value = json.loads(body)
        if value["data"]["node"] in self.sick:
            return Answer(400, "not mine", 1.0)
        if self.status == 200:
            self.got.append((headers["webhook-id"], value))
        return Answer(self.status, "", 1.0, self.retry_after_s)


def receiver(**more: object) -> Receiver:
    return Receiver(name="ops", url="https://hook.example/x", **more)  # type: ignore[arg-type]  # the record's own types


def courier(folder: Path, one: FakeReceiver, *, chance: float = 0.5, **more: object) -> Courier:
    """A courier on the outbox of a folder: a second one is what a restarted process has."""
    return Courier(receiver(**more), Outbox(folder / "o.sqlite"), one.post, list, one.clock, lambda: chance)


def run(messenger: Courier, clock: Clock, until_s: float) -> None:
    """Steps until a time, as the job's thread does, the clock jumping to when the next step is due."""
    for _ in range(100_000):
        due_s = messenger.step()
        if due_s is None or due_s > until_s:
            clock.now_s = max(clock.now_s, until_s)
            return
        clock.now_s = max(clock.now_s, due_s)
    raise AssertionError("the courier never rests")
