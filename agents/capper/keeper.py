"""Keeps what the capper holds: ends leases, puts values back, yields to other writers, and tells what happened.

It never grants anything. A value that cannot be put back stays in the save file and is tried again until it is.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from agents.capper.acks import AckWriter, Event
from agents.capper.actuators.errors import ActuatorError, Unsafe
from agents.capper.bounds import power_floor
from agents.capper.gpu import Gpu, Lease, Row
from agents.capper.holdings import Holdings, put_back_row
from agents.capper.knob import Knob
from agents.capper.mark import HighWaterMark
from agents.capper.settings import CapperSettings
from streams.contract.records import PowerApplied

log = logging.getLogger("eo.capper")


class Keeper:
    """The state of one node between commands."""

    def __init__(
        self,
        *,
        settings: CapperSettings,
        holdings: Holdings,
        writer: AckWriter,
        mark: HighWaterMark,
        wall_ns: Callable[[], int],
    ) -> None:
        self._settings, self._holdings, self._writer = settings, holdings, writer
        self._mark, self._wall_ns = mark, wall_ns
        self.counts: Counter[str] = Counter()
        self.events: list[PowerApplied] = []
        self._due_s = math.inf

    @property
    def _all(self) -> Iterable[Gpu]:
        return self._holdings.gpus.values()

    def settle(self) -> None:
        """After any change: save file in step, next due time known."""
        self._holdings.release()
        ends = [gpu.lease.expires_s for gpu in self._all if gpu.lease]
        retries = [gpu.retry_at_s for gpu in self._all if gpu.restoring]
        self._due_s = min([*ends, *retries], default=math.inf)

    def tick(self, now_s: float) -> None:
        """Ends leases that are over, repeats failed restores, and looks for foreign changes."""
        if self._holdings.behind:
            self.settle()
        if now_s >= self._due_s:
            self._expire([gpu for gpu in self._all if gpu.lease and now_s >= gpu.lease.expires_s], now_s)
            retry = [gpu for gpu in self._all if gpu.restoring and now_s >= gpu.retry_at_s]
            self.restore(retry, "put back at last", now_s, again=True)
            self.settle()
        for gpu, knob in self._holdings.held:
            self._watch(gpu, knob, now_s)

    def _watch(self, gpu: Gpu, knob: Knob, now_s: float) -> None:
        if knob.pending is not None:
            if not knob.pending.restore and (problem := knob.check(now_s)):
                end = self.shun if knob.claim is not None else self.yield_to_others
                end(gpu, problem, now_s)
                self.settle()
            return  # what is being put back is looked at when its next try is due
        try:
            if knob.foreign():
                self.yield_to_others(gpu, f"{knob.actuator.knob} was changed by others to {knob.read()}", now_s)
                self.settle()
            knob.unreadable = False
        except Unsafe as error:
            self.shun(gpu, str(error), now_s)
            self.settle()
        except ActuatorError as error:
            self.lose(gpu, knob, error)

    # -- leases that end -----------------------------------------------------------------------------------------------

    def _expire(self, gpus: Iterable[Gpu], now_s: float) -> None:
        """Ends leases; one event per envelope that granted them."""
        ended: dict[tuple[int, int], list[tuple[Lease, Row]]] = {}
        for gpu in gpus:
            lease, gpu.lease = gpu.lease, None
            if lease is not None:
                ended.setdefault((lease.epoch, lease.seq), []).append((lease, self._expired_row(gpu, lease, now_s)))
        for key, pairs in ended.items():
            self._emit("expiry", [row for _, row in pairs], key, pairs[0][0])

    def _expired_row(self, gpu: Gpu, lease: Lease, now_s: float) -> Row:
        if not gpu.claimed:
            return Row(gpu.uuid, "expired", "the lease ended; nothing was held", gpu)
        if lease.on_expiry == "restore" or not self._settings.breaker_protected:
            note = "" if lease.on_expiry == "restore" else f" ({lease.on_expiry} needs breaker_protected on this node)"
            return self.put_back(gpu, f"the lease ended: put back{note}", now_s)
        if lease.on_expiry == "floor" and (problem := self._lower(gpu, 0.0, now_s)):
            return Row(gpu.uuid, "expired", f"the lease ended: held, the floor could not be set ({problem})"[:400], gpu)
        if lease.on_expiry == "hold" and lease.table is not None and self._settings.row_meter:
            return self._braked_row(gpu, lease.table.deepest_w, now_s)
        return Row(gpu.uuid, "expired", f"the lease ended: {lease.on_expiry}, a breaker is protected", gpu)

    def _braked_row(self, gpu: Gpu, watts: float, now_s: float) -> Row:
        """A limit that is held without a lease can brake no more, so it is held where the highest load puts it."""
        if problem := self._lower(gpu, watts, now_s):
            text = f"the lease ended: held, its last brake could not be set ({problem})"
            return Row(gpu.uuid, "expired", text[:400], gpu)
        gpu.brake.watts = min(watts, math.inf if gpu.brake.watts is None else gpu.brake.watts)
        return Row(gpu.uuid, "expired", "the lease ended: held at its last brake, a breaker is protected", gpu)

    def _lower(self, gpu: Gpu, watts: float, now_s: float) -> str | None:
        """Lowers the limit, to the floor at most, for a breaker's sake; returns the problem."""
        if (knob := gpu.power) is None:
            return "no power limit can be set here"
        try:
            if knob.claim is None:
                self._holdings.claim([(knob, knob.find(self._wall_ns()))])
            if knob.foreign():
                return f"it was changed by others to {knob.read()}"
            current = knob.read()
            goal = max(watts, power_floor(knob.bounds(), self._settings))
            return None if current is not None and current <= goal else knob.apply(goal, now_s)
        except (ActuatorError, OSError) as error:
            return str(error)

    # -- giving back ---------------------------------------------------------------------------------------------------

    def put_back(self, gpu: Gpu, why: str, now_s: float) -> Row:
        """Restores one GPU, clock first, and says how it went; a failure leaves it due for another try."""
        claim = gpu.power.claim if gpu.power else None
        results = gpu.put_back(now_s, self._settings.restore_retry_s)
        return put_back_row(gpu, results, claim.saved.previous if claim else None, why)

    def restore(
        self, gpus: Sequence[Gpu], why: str, now_s: float, *, mark: tuple[int, int] | None = None, again: bool = False
    ) -> None:
        """Restores GPUs and tells; a repeated failure is told only once."""
        rows = [(gpu, self.put_back(gpu, why, now_s)) for gpu in gpus if gpu.claimed]
        told = [row for gpu, row in rows if not (again and gpu.restoring)]
        for gpu in gpus:
            gpu.lease = None
        if told:
            self._emit("restore", told, mark or self._mark.value)

    def restore_all(self, reason: str, now_s: float) -> PowerApplied:
        """Puts back everything held, ends all leases, and forgets whom we yielded to: a human has decided."""
        rows = []
        for gpu in self._all:
            gpu.lease, gpu.yielded, gpu.shunned, gpu.shunned_until_s = None, "", "", 0.0
            if gpu.claimed:
                rows.append(self.put_back(gpu, reason, now_s))
        self.settle()
        self.counts.update(f"restore.{row.status}" for row in rows)
        return self._writer.event("restore", rows, self._mark.value)

    def yield_to_others(self, gpu: Gpu, why: str, now_s: float) -> None:
        """A foreign change: keep off that knob, give back the other, say so, and stay away."""
        for knob in gpu.knobs:
            try:
                if knob.foreign():
                    knob.claim = None
            except ActuatorError as error:
                log.warning("%s cannot be read while yielding: %s", gpu.uuid, error)
        gpu.put_back(now_s, self._settings.restore_retry_s)
        gpu.yielded = why
        row = Row(gpu.uuid, "refused", f"foreign: {why}; left as it is"[:400], gpu)
        self._emit("foreign_change", [row], self._mark.value)

    def shun(self, gpu: Gpu, problem: str, now_s: float) -> None:
        """A GPU that does not obey: put back what can be, leave it alone for a while, tell everybody."""
        gpu.shunned, gpu.shunned_until_s = problem, now_s + self._settings.retry_s
        gpu.put_back(now_s, self._settings.restore_retry_s)
        left = "; the value found before us is not back yet" if gpu.restoring else ""
        row = Row(gpu.uuid, "refused", f"not_actuatable: {problem}{left}"[:400], gpu)
        self._emit("not_actuatable", [row], self._mark.value)

    def lose(self, gpu: Gpu, knob: Knob, error: ActuatorError) -> None:
        """A knob that cannot be read: told once until it can be read again."""
        if not knob.unreadable:
            knob.unreadable = True
            self._emit("not_actuatable", [Row(gpu.uuid, "refused", f"device: {error}"[:400], gpu)], self._mark.value)

    def _emit(self, event: Event, rows: Sequence[Row], mark: tuple[int, int], lease: Lease | None = None) -> None:
        mode, strategy = (lease.mode, lease.strategy) if lease else (None, "")
        self.counts.update(f"{event}.{row.status}" for row in rows)
        self.events.append(self._writer.event(event, rows, mark, mode=mode, strategy=strategy))
