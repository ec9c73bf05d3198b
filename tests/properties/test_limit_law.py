"""The law of the limit in force, over random courses of one node: ceiling, choice, brake, and what comes back.

Under a live lease the limit is the lowest of the lease's ceiling, what the node's own loop chose, and the brake; never
below the owner's floor. A renewal changes nothing by itself, an end gives back what was found, another's value stands.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from streams.contract.records import BrakeColumns, PowerApplied
from tests.fakes.capper_rig import ALLOWED, GPUS, Rig, columns

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
BUDGET_W, METER_AGE_S, TTL_S = 10_000.0, 5.0, 10.0
NEAR_W = 0.01
TABLES = {
    "none": None,
    "deep": BrakeColumns(
        row="r", budget_w=BUDGET_W, from_ratio=(0.9, 0.97), max_power_w=((400.0, 500.0), (250.0, 350.0))
    ),
    "flat": BrakeColumns(row="r", budget_w=BUDGET_W, from_ratio=(0.8,), max_power_w=((450.0, None),)),
}
tables = st.sampled_from(["none", "deep", "deep", "flat"])
granted_w = st.sampled_from([None, 250.0, 350.0, 420.0, 500.0, 500.0, 600.0, 700.0])
wished_w = st.sampled_from([None, 250.0, 320.0, 350.0, 400.0, 450.0, 500.0, 650.0])
loads = st.sampled_from([None, 0.5, 0.5, 0.85, 0.89, 0.92, 0.98, 1e5])


@dataclass
class Course:
    """What must be true of one GPU, as an outsider knows it."""

    line: int
    found_w: float = 700.0
    ceiling_w: float | None = None
    chosen_w: float | None = None
    table: str = "none"
    on_expiry: str = "restore"
    ends_s: float = -inf
    foreign_w: float | None = None  # another's value, seen by the capper or about to be
    kept_w: float | None = None  # held without a lease, for a breaker

    def drop(self) -> None:
        self.ceiling_w = self.chosen_w = self.kept_w = None
        self.table, self.ends_s = "none", -inf

    def steps(self) -> list[tuple[float, float]]:
        table = TABLES[self.table]
        if table is None:
            return []
        pairs = zip(table.from_ratio, table.max_power_w, strict=True)
        return [(ratio, watts) for ratio, line in pairs if (watts := line[self.line]) is not None]


class LimitLaw(RuleBasedStateMachine):
    """One node of two GPUs; the agent, the stream, a row's meter and a stranger act in any order."""

    @initialize(
        floor=st.sampled_from([None, 300.0]),
        ceiling=st.sampled_from([None, None, 550.0]),
        interval_s=st.sampled_from([0.0, 0.0, 0.5]),
        metered=st.sampled_from([True, True, True, False]),
        protected=st.booleans(),
    )
    def begin(
        self, floor: float | None, ceiling: float | None, interval_s: float, metered: bool, protected: bool
    ) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=MEMORY)
        self.owner = replace(
            ALLOWED,
            row_meter=metered,
            breaker_protected=protected,
            power_floor_w=floor,
            power_ceiling_w=ceiling,
            min_power_interval_s=interval_s,
        )
        self.floor_w, self.highest_w = floor or 200.0, ceiling or 700.0
        self.rig = Rig(Path(self.folder.name), settings=self.owner, clock=False)
        self.seq, self.ticked_s = 0, self.rig.now_s
        self.gpus = {uuid: Course(line) for line, uuid in enumerate(GPUS)}
        self.meter: tuple[float | None, float] = (None, -inf)
        self.last: tuple[float | None, str, str] = (500.0, "deep", "restore")
        self.read_meter(0.5, 0.0)
        self.renew()

    # -- what an outsider sees -------------------------------------------------------------------------------------

    def watts(self, uuid: str) -> float:
        assert self.rig.power is not None
        value = self.rig.power.values[uuid]
        assert value is not None
        return value

    def told(self, uuid: str) -> dict[str, Any]:
        found: Any = self.rig.capper.status()["gpus"]
        return dict(found[uuid])

    def count(self, word: str) -> int:
        counts: Any = self.rig.capper.status()["counts"]
        return int(counts.get(f"limit_refused.{word}", 0))

    def live(self, gpu: Course) -> bool:
        return gpu.foreign_w is None and self.rig.now_s < gpu.ends_s

    def ceiling_of(self, gpu: Course, watts: float | None) -> float | None:
        """What a lease may grant of the watts asked for."""
        return None if watts is None else min(watts, self.highest_w, gpu.found_w)

    def goal_w(self, gpu: Course) -> float:
        """The highest that table and meter allow now."""
        watts, at_s = self.meter
        known = watts is not None and self.rig.now_s - at_s <= METER_AGE_S
        load = watts / BUDGET_W if known and watts is not None else inf
        reached = [limit for ratio, limit in gpu.steps() if load >= ratio]
        return max(self.floor_w, min(reached, default=inf)) if self.owner.row_meter else inf

    def braked_w(self, uuid: str) -> float:
        limits = self.told(uuid)["limits"]
        return inf if limits is None or limits["braked_w"] is None else float(limits["braked_w"])

    # -- the stream ------------------------------------------------------------------------------------------------

    @rule(watts=granted_w, table=tables, on_expiry=st.sampled_from(["restore", "restore", "hold", "floor"]))
    def grant(self, watts: float | None, table: str, on_expiry: str) -> None:
        self.last = (watts, table, on_expiry)
        self.send(*self.last)

    @rule()
    def renew(self) -> None:
        """The same again: only the brake's own course may move a limit, and no rate may refuse it."""
        before = {uuid: (self.watts(uuid), self.braked_w(uuid), self.live(gpu)) for uuid, gpu in self.gpus.items()}
        was = {uuid: (gpu.ceiling_w, gpu.table) for uuid, gpu in self.gpus.items()}
        ack = self.send(*self.last)
        for uuid, status, reason in zip(ack.gpu.uuid, ack.gpu.status, ack.gpu.reason, strict=True):
            limit_w, braked_w, live = before[uuid]
            if not live or was[uuid] != (self.ceiling_of(self.gpus[uuid], self.last[0]), self.last[1]):
                continue  # the last command was refused here
            assert not (status == "refused" and reason.startswith("rate")), reason
            assert self.watts(uuid) == limit_w or self.braked_w(uuid) != braked_w

    def send(self, watts: float | None, table: str, on_expiry: str) -> PowerApplied:
        self.seq += 1
        asked = columns(GPUS, watts=watts, low=None, high=None)
        ack = self.rig.grant(self.seq, asked, brake=TABLES[table], on_expiry=on_expiry, ttl_ms=round(TTL_S * 1000))
        for index, uuid in enumerate(ack.gpu.uuid):
            gpu, status, reason = self.gpus[uuid], ack.gpu.status[index], ack.gpu.reason[index]
            assert ack.gpu.effective_limit_w[index] == self.watts(uuid)
            if status == "refused":
                self.refused(gpu, watts, reason)
            else:
                self.granted(gpu, watts, table, on_expiry)
                self.answered(uuid, watts, status, reason)
        return ack

    def refused(self, gpu: Course, watts: float | None, reason: str) -> None:
        code = reason.split(":")[0]
        match code:
            case "foreign":
                assert gpu.foreign_w is not None
                gpu.drop()
            case "floor":
                assert watts is not None and watts < self.floor_w
            case _:
                assert code == "rate" and self.owner.min_power_interval_s > 0, reason

    def granted(self, gpu: Course, watts: float | None, table: str, on_expiry: str) -> None:
        assert gpu.foreign_w is None, "another's GPU is left"
        chosen_w = gpu.chosen_w if self.live(gpu) else None
        gpu.drop()
        gpu.ends_s, gpu.on_expiry = self.rig.now_s + TTL_S, on_expiry
        if watts is None:
            return
        gpu.ceiling_w, gpu.table = self.ceiling_of(gpu, watts), table
        gpu.chosen_w = None if chosen_w is None or chosen_w > (gpu.ceiling_w or 0.0) else chosen_w

    def answered(self, uuid: str, watts: float | None, status: str, reason: str) -> None:
        """Status and text say what holds the limit."""
        gpu = self.gpus[uuid]
        if watts is None or gpu.ceiling_w is None:
            assert status in {"applied", "restored"} and reason == "nothing granted: at its own value"
            return
        braked, clamped = self.braked_w(uuid) < inf, gpu.ceiling_w < watts
        assert status == ("clamped" if braked or clamped else "applied"), (status, reason)
        assert reason.startswith("brake: ") == braked, reason
        assert ("chosen on the node" in reason) == (gpu.chosen_w is not None), reason
        assert (f"{watts:g} W held to {gpu.ceiling_w:g} W" in reason) == clamped, reason
        if gpu.chosen_w is not None:
            assert f"{gpu.chosen_w:g} W" in reason

    # -- the node --------------------------------------------------------------------------------------------------

    @rule(uuid=st.sampled_from(GPUS), watts=wished_w)
    def choose(self, uuid: str, watts: float | None) -> None:
        gpu, before_w = self.gpus[uuid], self.watts(uuid)
        words = ("no_lease", "outside_lease", "braked", "rate")
        counts = {word: self.count(word) for word in words}
        highest_w = min(gpu.ceiling_w or 0.0, gpu.found_w)
        braked_w, held = self.braked_w(uuid), bool(self.told(uuid)["held"])
        assert self.rig.capper.set_limits({uuid: watts}) == {uuid: self.watts(uuid)}
        said = [word for word in words if self.count(word) > counts[word]]
        if not self.live(gpu) or gpu.ceiling_w is None:
            if self.told(uuid)["yielded"]:
                gpu.drop()
            assert gpu.foreign_w is not None or said == ["no_lease"]
            assert self.watts(uuid) == before_w
        elif watts is None:
            assert said == []
            gpu.chosen_w = None
        elif said:
            assert self.watts(uuid) == before_w
            expected = "outside_lease" if watts > gpu.ceiling_w or watts < self.floor_w else "braked"
            assert said == [expected] or (said == ["rate"] and self.owner.min_power_interval_s > 0), said
            assert said != ["braked"] or watts > braked_w
        else:
            assert self.floor_w <= watts <= min(gpu.ceiling_w, braked_w)
            if held or watts < highest_w:
                gpu.chosen_w = min(watts, gpu.found_w)

    @rule(share=loads, age_s=st.sampled_from([0.0, 0.2, 4.0, 7.0]))
    def read_meter(self, share: float | None, age_s: float) -> None:
        watts = None if share is None else share * BUDGET_W
        assert self.rig.capper.row_load(watts, age_s) is self.owner.row_meter
        self.meter = (watts, self.rig.now_s - age_s)

    @rule(
        seconds=st.sampled_from([0.25, 0.5, 3.0, 6.0, 11.0]), share=st.sampled_from([-1.0, 0.5, 0.5, 0.89, 0.92, 0.98])
    )
    def live_on(self, seconds: float, share: float) -> None:
        """Below nothing = the agent is silent."""
        for _ in range(round(seconds / 0.25)):
            self.rig.advance(0.25)
            if share >= 0.0:
                self.read_meter(share, 0.0)
            self.tick()

    @rule()
    def tick(self) -> None:
        before = {uuid: (self.watts(uuid), self.braked_w(uuid)) for uuid in GPUS}
        self.rig.capper.tick()
        for uuid, gpu in self.gpus.items():
            if self.rig.now_s >= gpu.ends_s > -inf:
                self.ended(uuid, *before[uuid])
            told = self.told(uuid)
            if told["yielded"]:
                gpu.drop()
            elif gpu.foreign_w is not None and not told["held"]:
                gpu.found_w, gpu.foreign_w = gpu.foreign_w, None  # met only at the end: the next lease finds it
        if self.rig.now_s == self.ticked_s:
            again = [uuid for uuid, gpu in self.gpus.items() if self.live(gpu)]
            assert all(self.braked_w(uuid) <= before[uuid][1] for uuid in again), "twice at one moment is once"
        self.ticked_s = self.rig.now_s

    def ended(self, uuid: str, before_w: float, braked_w: float) -> None:
        gpu = self.gpus[uuid]
        table, on_expiry, held = gpu.steps(), gpu.on_expiry, bool(self.told(uuid)["held"])
        gpu.drop()
        if gpu.foreign_w is not None or on_expiry == "restore" or not self.owner.breaker_protected or not held:
            return
        deepest_w = max(self.floor_w, min((watts for _, watts in table), default=inf))
        most_w = self.floor_w if on_expiry == "floor" else deepest_w if self.owner.row_meter else inf
        gpu.kept_w = min(before_w, most_w)

    @rule(seconds=st.sampled_from([0.1, 0.3, 5.1, 12.0]))
    def fall_silent(self, seconds: float) -> None:
        """Time without a tick."""
        self.rig.advance(seconds)

    # -- strangers and deaths --------------------------------------------------------------------------------------

    @rule(
        uuid=st.sampled_from(GPUS), act=st.sampled_from(["meddle", "meddle high", "die", *["restore"] * 2, *[""] * 5])
    )
    def interfere(self, uuid: str, act: str) -> None:
        if act == "restore":
            self.restore()
        elif act == "" or any(gpu.foreign_w is not None for gpu in self.gpus.values()):
            return  # whose value it is after a death, the save file says; after a second change nobody knows
        elif act == "die":
            self.die()
        else:
            self.meddle(uuid, 333.0 if act == "meddle" else 641.0)

    def meddle(self, uuid: str, watts: float) -> None:
        assert self.rig.power is not None
        gpu = self.gpus[uuid]
        if abs(self.watts(uuid) - watts) <= 1.0:
            return  # no change at all
        if self.told(uuid)["held"]:
            gpu.foreign_w = watts
        else:
            gpu.found_w = watts  # nobody's: it is what we find
        self.rig.power.foreign_writer(uuid, watts)

    def die(self) -> None:
        self.rig.crash()
        self.rig.restart()
        self.meter = (None, -inf)
        self.forget()

    def restore(self) -> None:
        """An operator: everything goes back, and whoever was yielded to is forgotten."""
        self.rig.capper.restore_all("test")
        for gpu in self.gpus.values():
            gpu.found_w, gpu.foreign_w = gpu.foreign_w or gpu.found_w, None
        self.forget()

    def forget(self) -> None:
        for gpu in self.gpus.values():
            gpu.drop()

    # -- the law ---------------------------------------------------------------------------------------------------

    @invariant()
    def law(self) -> None:
        for uuid, gpu in self.gpus.items():
            now_w = self.watts(uuid)
            if gpu.foreign_w is not None:
                assert now_w == gpu.foreign_w, f"{now_w} W: another's {gpu.foreign_w} W is left"
            elif self.live(gpu):
                self.law_of_lease(uuid, gpu, now_w)
            elif gpu.ends_s == -inf:
                assert now_w == (gpu.found_w if gpu.kept_w is None else gpu.kept_w), f"{now_w} W after the end"

    def law_of_lease(self, uuid: str, gpu: Course, now_w: float) -> None:
        limits, braked_w = self.told(uuid)["limits"], self.braked_w(uuid)
        assert (limits["ceiling_w"], limits["chosen_w"]) == (gpu.ceiling_w, gpu.chosen_w)
        if gpu.ceiling_w is None or not self.told(uuid)["held"]:
            assert now_w == gpu.found_w
            return
        lowest_w = min(gpu.ceiling_w, inf if gpu.chosen_w is None else gpu.chosen_w, braked_w, gpu.found_w)
        assert now_w == pytest.approx(lowest_w, abs=NEAR_W), f"{now_w} W of {limits}, {gpu}"
        assert now_w >= min(self.floor_w, gpu.found_w)
        assert braked_w == inf or gpu.steps(), "no brake without a table"
        if self.ticked_s == self.rig.now_s:
            assert now_w <= self.goal_w(gpu) + NEAR_W, "down at once"

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        try:
            self.tick()
            self.calm_down()
            self.rig.run(12.0)
            self.rig.capper.close()
            for uuid, gpu in self.gpus.items():
                assert self.watts(uuid) == (gpu.found_w if gpu.foreign_w is None else gpu.foreign_w)
            assert not (self.rig.folder / "save.json").exists()
        finally:
            self.rig.capper.close()
            self.folder.cleanup()

    def calm_down(self) -> None:
        """In a calm row the brake goes, and the choice is in force again, else the ceiling."""
        self.read_meter(0.5, 0.0)
        for _ in range(200):
            if all(self.braked_w(uuid) == inf for uuid in GPUS):
                break
            self.rig.advance(5.0)
            self.read_meter(0.5, 0.0)
            self.tick()
            self.renew()
            self.law()
        assert all(self.braked_w(uuid) == inf for uuid in GPUS)


# No shrinking: it would take minutes, and a course of thirty steps can be read.
FEW = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)


def test_any_course_of_a_node_keeps_the_law_of_the_limit() -> None:
    run_state_machine_as_test(LimitLaw, settings=FEW)
