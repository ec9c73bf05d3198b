"""The brake at work: holds the row's load against each lease's table, lowers limits at once and tells of it.

It acts inside leases that a signed command gave, never above their ceilings, and only where the owner set `row_meter`.
What the meter says comes from the agent and can only take watts away: silence counts as the highest load.
"""

from __future__ import annotations

import logging
from typing import Final

from agents.capper.acks import AckWriter
from agents.capper.actuators.errors import ActuatorError
from agents.capper.bounds import power_floor
from agents.capper.brake import RowLoad, Table
from agents.capper.gpu import Gpu, Lease, Row
from agents.capper.holdings import Holdings
from agents.capper.keeper import Keeper
from agents.capper.knob import Knob
from agents.capper.settings import CapperSettings

log = logging.getLogger("eo.capper")
TRIES: Final = 3  # rounds of a device that does not obey the brake, before it is not_actuatable
NEWS_W: Final = 1.0


def chosen_note(chosen_w: float, ceiling_w: float) -> str:
    """Half a sentence on what the node's own loop chose, below what lease and brake allow or for after the brake."""
    if chosen_w <= ceiling_w:
        return f"limit {chosen_w:g} W, chosen on the node within {ceiling_w:g} W"
    return f"{chosen_w:g} W, chosen on the node, comes back after it"


class RowBrake:
    """The brake of one node."""

    def __init__(self, *, settings: CapperSettings, holdings: Holdings, keeper: Keeper, writer: AckWriter) -> None:
        self._settings, self._holdings, self._keeper, self._writer = settings, holdings, keeper, writer
        self.load = RowLoad(settings.row_meter_max_age_s, settings.row_budget_w)

    @property
    def active(self) -> bool:
        return self._settings.row_meter

    def under(self, gpu: Gpu, ceiling_w: float, table: Table | None, now_s: float) -> float:
        """What of a newly granted ceiling may be set now. Raises ActuatorError."""
        if not self.active or table is None or gpu.power is None:
            return ceiling_w
        floor_w = power_floor(gpu.power.bounds(), self._settings)
        load = self.load.ratio(table, now_s)
        return gpu.brake.next(ceiling_w, table, load, floor_w=floor_w, now_s=now_s)

    def note(self, ceiling_w: float, watts: float, table: Table | None, now_s: float) -> str:
        """The reason of a limit below what was granted."""
        why = "" if table is None else self.load.why(table, now_s)
        return f"brake: {watts:g} W instead of {ceiling_w:g} W, {why}"

    def granted(self, gpu: Gpu, braked_w: float | None) -> None:
        """A new lease is in force; its acknowledgement has told of the brake."""
        if braked_w is not None and gpu.brake.told_w is None:
            self._keeper.counts["brake.braked"] += 1
        gpu.brake.watts = gpu.brake.told_w = braked_w

    def tick(self, now_s: float) -> None:
        """Moves every braked or brakeable limit to where the row's load puts it. Cheap when nothing changes."""
        if not self.active:
            return
        told: dict[tuple[int, int], tuple[Lease, list[Row]]] = {}
        for gpu in self._holdings.gpus.values():
            lease, knob = gpu.lease, gpu.power
            if lease is None or now_s >= lease.expires_s or knob is None or knob.claim is None or gpu.restoring:
                continue
            if lease.table is None or lease.ceiling_w is None or now_s < gpu.brake.retry_s:
                continue
            row = self._move(gpu, knob, lease, now_s)
            if row is not None:
                told.setdefault((lease.epoch, lease.seq), (lease, []))[1].append(row)
        for key, (lease, rows) in told.items():
            self._keeper.events.append(
                self._writer.event("command", rows, key, mode=lease.mode, strategy=lease.strategy)
            )

    def _move(self, gpu: Gpu, knob: Knob, lease: Lease, now_s: float) -> Row | None:
        """One GPU; returns what is to be told of it."""
        assert lease.table is not None and lease.ceiling_w is not None
        held, before = gpu.brake, gpu.brake.watts
        try:
            floor_w = power_floor(knob.bounds(), self._settings)
            load = self.load.ratio(lease.table, now_s)
            watts = round(held.next(lease.ceiling_w, lease.table, load, floor_w=floor_w, now_s=now_s), 3)
            now_w = lease.ceiling_w if before is None else before
            told = knob.pending is not None or (knob.claim is not None and knob.claim.known)
            if (knob.exactly(watts, now_w) and told) or (watts > now_w and knob.pending is not None):
                held.failures = 0
                return None
            if knob.foreign():
                self._keeper.yield_to_others(gpu, f"power_limit_w was changed by others to {knob.read()}", now_s)
                self._keeper.settle()
                return None
            # What the node's own loop chose below the brake stays.
            limit_w = watts if lease.chosen_w is None else min(watts, lease.chosen_w)
            problem = "" if knob.stands(limit_w) else knob.apply(limit_w, now_s)
        except ActuatorError as error:
            problem, watts = str(error), 0.0
        if problem:
            self._failed(gpu, problem, now_s)
            return None
        held.failures = 0
        held.watts = watts if watts < lease.ceiling_w else None
        return self._news(gpu, lease, watts, now_s)

    def _failed(self, gpu: Gpu, problem: str, now_s: float) -> None:
        """Tried again soon: giving the old limit back while the row is too high would be the wrong way round."""
        gpu.brake.failures += 1
        self._keeper.counts["brake.failed"] += 1
        if gpu.brake.failures < TRIES:
            gpu.brake.retry_s = now_s + self._settings.restore_retry_s
            log.warning("%s did not obey the brake (%s); it is told again", gpu.uuid, problem)
            return
        self._keeper.shun(gpu, problem, now_s)
        self._keeper.settle()

    def _news(self, gpu: Gpu, lease: Lease, watts: float, now_s: float) -> Row | None:
        """A brake that is new or deeper, and its end, are told; the steps on the way back are not."""
        held = gpu.brake
        assert lease.ceiling_w is not None
        if held.watts is None:
            if held.told_w is None:
                return None  # the limit was told once more after a failure, no brake has ended
            held.told_w = None
            self._keeper.counts["brake.released"] += 1
            chosen_w = lease.chosen_w
            back = f"back at {watts:g} W" if chosen_w is None else chosen_note(chosen_w, watts)
            text = f"brake released: {back}"
            return Row(gpu.uuid, "applied", text, gpu, limit_w=lease.ceiling_w)
        if held.told_w is not None and watts > held.told_w - NEWS_W:
            return None
        held.told_w = watts
        self._keeper.counts["brake.braked"] += 1
        text = self.note(lease.ceiling_w, watts, lease.table, now_s)
        text += "" if lease.chosen_w is None else f"; {chosen_note(lease.chosen_w, watts)}"
        return Row(gpu.uuid, "clamped", text[:400], gpu, limit_w=lease.ceiling_w)

    def status(self, now_s: float) -> dict[str, object] | None:
        """The row as this node sees it; None where no meter is set up."""
        if not self.active:
            return None
        gpus = self._holdings.gpus.values()
        table = next((gpu.lease.table for gpu in gpus if gpu.lease and gpu.lease.table), None)
        age_s = now_s - self.load.at_s
        return {
            "row": None if table is None else table.row,
            "load_ratio": None if table is None else self.load.ratio(table, now_s),
            "watts": self.load.watts,
            "age_s": round(age_s, 3) if self.load.watts is not None else None,
            "braked": {gpu.uuid: gpu.brake.watts for gpu in gpus if gpu.lease and gpu.brake.watts is not None},
            "why": "" if table is None else self.load.why(table, now_s),
        }
