"""The capper's core: verifies commands from their raw bytes, sets inside leases, puts back what it found. No sockets.

One object per node, driven by one thread: `grant` and `set_clocks` as commands come, `tick` at 4 Hz or more. It must
not set a knob whose old value is not in the save file, obey a command that is not proved new and ours, or fight another
writer.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from agents.capper import verify
from agents.capper.acks import AckWriter
from agents.capper.actuators.base import Actuator
from agents.capper.actuators.errors import ActuatorError
from agents.capper.bounds import NotAllowed
from agents.capper.braking import RowBrake
from agents.capper.errors import CapperError
from agents.capper.fast import FastLoop
from agents.capper.folder_lock import FolderLock
from agents.capper.gpu import Gpu, Lease, Row
from agents.capper.grants import Ask, ForeignFound, Plan, asks, execute, plan, refused
from agents.capper.holdings import Holdings
from agents.capper.keeper import Keeper
from agents.capper.mark import HighWaterMark
from agents.capper.settings import CapperSettings
from streams.contract.failpoints import hit
from streams.contract.records import PowerApplied, PowerDesired
from streams.contract.signing import KeyRing
from streams.observe import notes

SLACK_S: Final = 5.0  # beyond a slow device's own latency
ANSWERS_KEPT: Final = 16  # a duplicate of one of the last commands gets the same acknowledgement again


class Capper:
    """Implements the node agent's CapperPort. `start` before anything else, `close` at the end."""

    def __init__(
        self,
        *,
        node: str,
        cluster: str,
        settings: CapperSettings,
        power: Actuator | None,
        clock: Actuator | None,
        folder: Path,
        keyring: KeyRing,
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if (first := power or clock) is None:
            raise CapperError(f"node {node} has neither a power nor a clock actuator: there is nothing to cap")
        self.node, self.cluster, self.settings, self.folder = node, cluster, settings, folder
        self._keyring, self._monotonic, self._wall_ns, self._sleep = keyring, monotonic, wall_ns, sleep
        names = "+".join(actuator.name for actuator in (power, clock) if actuator)
        self._writer = AckWriter(cluster=cluster, node=node, actuator=names, quality=first.quality, wall_ns=wall_ns)
        capper_id = self._writer.capper_id
        self._holdings = Holdings(
            folder=folder, cluster=cluster, node=node, capper_id=capper_id, power=power, clock=clock, sleep=sleep
        )
        self.folder_lock = FolderLock(folder)
        self._mark = HighWaterMark(folder)
        self._keeper = Keeper(
            settings=settings, holdings=self._holdings, writer=self._writer, mark=self._mark, wall_ns=wall_ns
        )
        self._counts = self._keeper.counts
        self._brake = RowBrake(settings=settings, holdings=self._holdings, keeper=self._keeper, writer=self._writer)
        self._fast = FastLoop(settings=settings, holdings=self._holdings, keeper=self._keeper, wall_ns=wall_ns)
        self._gpus: dict[str, Gpu] = {}
        self._answers: OrderedDict[tuple[int, int], PowerApplied] = OrderedDict()
        self._started = False

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Takes the folder, reads mark and save file, and puts back everything that an earlier run left set.

        Raises:
            CapperError: another capper holds the folder, a file cannot be read or trusted, no GPU can be listed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
            self.folder_lock.acquire()
        except OSError as error:
            raise CapperError(
                f"{self.folder} cannot be used ({error.strerror}); give this user the right to it"
            ) from error
        try:
            self._mark.open()
            self._holdings.load()
        except ActuatorError as error:
            self._drop_files()
            text = f"the GPUs of node {self.node} cannot be listed: {error}; start again when they can"
            raise CapperError(text) from error
        except CapperError:
            self._drop_files()
            raise
        self._gpus = self._holdings.gpus
        self._started = True
        self._keeper.restore(list(self._gpus.values()), "left set by an earlier run", self._monotonic())
        self._keeper.settle()

    def close(self) -> None:
        """Puts back what is still held, then lets the folder go. Safe to call twice."""
        if self._started and self._holdings.held:
            self.restore_all("the capper is stopping")
            self._wait_for_slow()
        self._started = False
        self._drop_files()

    def _wait_for_slow(self) -> None:
        """Devices out of band take their time; what they do not show by then stays in the save file."""
        slowest = max((knob.actuator.latency_s for _, knob in self._holdings.held), default=0.0)
        ends_s = self._monotonic() + slowest + SLACK_S
        while self._monotonic() < ends_s and any(knob.pending for _, knob in self._holdings.held):
            self._sleep(0.25)
            self.tick()

    def _drop_files(self) -> None:
        self._mark.close()
        self.folder_lock.release()

    # -- commands ------------------------------------------------------------------------------------------------------

    def grant(self, raw: bytes, *, received_ns: int) -> PowerApplied:
        """Verifies and obeys one envelope (PowerDesired as JSON); always answers, refusals with their reason.

        `received_ns` is the wall clock at the agent and serves the reported latency only. The lease runs from this call
        on the monotonic clock. Raises CapperError only when the capper is not started.
        """
        with notes.step("capper.grant", **{"host.name": self.node}):
            return self._grant(raw, received_ns)

    def _grant(self, raw: bytes, received_ns: int) -> PowerApplied:
        if not self._started:
            raise CapperError(f"the capper of node {self.node} is not started")
        now_s = self._monotonic()
        try:
            with notes.step("capper.verify"):
                command = self._authenticate(raw)
            if answer := self._answers.get((command.epoch, command.seq)):
                self._counts["duplicate"] += 1
                return answer
            advice = self._admit(command)
        except verify.Refused as error:
            return self._refuse(error, received_ns)
        hit("capper.after_hwm_fsync")
        rows = self._obey(command, now_s) if advice is None else self._advise(command, advice, now_s)
        self._keeper.settle()
        answer = self._writer.command(rows, command, received_ns)
        self._counts.update(row.status for row in rows)
        self._remember(command, answer)
        hit("capper.before_ack")
        return answer

    def grant_traced(
        self, raw: bytes, *, received_ns: int, traceparent: str
    ) -> tuple[PowerApplied, Sequence[notes.SpanNote], int]:
        """`grant` with the spans of what it did, for a caller in the same process."""
        with notes.taking(traceparent, self._wall_ns) as spans:
            return self.grant(raw, received_ns=received_ns), spans, os.getpid()

    def _authenticate(self, raw: bytes) -> PowerDesired:
        limit = self.settings.max_request_bytes
        return verify.authenticate(raw, node=self.node, cluster=self.cluster, keyring=self._keyring, max_bytes=limit)

    def _admit(self, command: PowerDesired) -> str | None:
        """Every check on the whole command, then the mark. Returns why it is advice only, None = obey it."""
        verify.check_opt_in(command, self.settings)
        verify.check_new(command, self._mark.value)
        verify.check_fresh(command, self.settings, self._wall_ns())
        advice = verify.advice_only(command, self.settings)
        try:
            self._mark.advance((command.epoch, command.seq))
        except OSError as error:
            path = self.folder / "mark.json"
            text = f"{path} cannot be written ({error.strerror}): nothing was set; free or repair it"
            raise verify.Refused("mark", text, command) from error
        return advice

    def _refuse(self, error: verify.Refused, received_ns: int) -> PowerApplied:
        self._counts[f"refused.{error.refusal.code}"] += 1
        reason = error.refusal.reason
        if error.command is None:
            rows = [Row(gpu.uuid, "refused", reason, gpu) for gpu in self._gpus.values()]
        else:
            rows = [refused(ask, reason, self._gpus.get(ask.uuid)) for ask in asks(error.command)]
        return self._writer.command(rows, error.command, received_ns)

    def _remember(self, command: PowerDesired, answer: PowerApplied) -> None:
        self._answers[command.epoch, command.seq] = answer
        if len(self._answers) > ANSWERS_KEPT:
            self._answers.popitem(last=False)

    def _advise(self, command: PowerDesired, why: str, now_s: float) -> list[Row]:
        """Nothing is set; what an earlier lease set goes back, because this envelope grants nothing."""
        rows = [self._advised_row(ask, why, now_s) for ask in asks(command)]
        listed = frozenset(command.gpu.uuid)
        others = [gpu for gpu in self._gpus.values() if gpu.uuid not in listed]
        self._keeper.restore(others, why, now_s)
        return rows

    def _advised_row(self, ask: Ask, why: str, now_s: float) -> Row:
        gpu = self._gpus.get(ask.uuid)
        if gpu is not None and gpu.claimed:
            return self._keeper.put_back(gpu, f"{why}, put back", now_s)
        if gpu is not None:
            gpu.lease = None
        return Row(ask.uuid, "recommended", why, gpu, limit_w=ask.watts, sm_mhz=ask.high_mhz)

    def _obey(self, command: PowerDesired, now_s: float) -> list[Row]:
        """Drops what is no longer granted, saves what is newly touched, then sets, GPU by GPU."""
        listed = frozenset(command.gpu.uuid)
        gone = [gpu for gpu in self._gpus.values() if gpu.uuid not in listed and not gpu.restoring]
        self._keeper.restore(gone, "not in the renewed envelope", now_s, mark=(command.epoch, command.seq))
        planned = [self._plan(ask, now_s) for ask in asks(command)]
        plans = [item for item in planned if isinstance(item, Plan)]
        blocked = self._claim(plans)
        hit("capper.after_save_before_set")
        for item in plans:
            if blocked and item.claims:
                item.row.status, item.row.reason = "refused", blocked
            else:
                self._execute(item, command, now_s)
        return [item.row if isinstance(item, Plan) else item for item in planned]

    def _plan(self, ask: Ask, now_s: float) -> Plan | Row:
        gpu = self._gpus.get(ask.uuid)
        if gpu is None:
            return refused(ask, f"unknown_gpu: {ask.uuid} is none of the {len(self._gpus)} GPUs of this node")
        try:
            return plan(gpu, ask, settings=self.settings, brake=self._brake, now_s=now_s, wall_ns=self._wall_ns())
        except NotAllowed as error:
            return refused(ask, str(error), gpu)
        except ForeignFound as error:
            self._keeper.yield_to_others(gpu, str(error), now_s)
            return refused(ask, f"foreign: {error}", gpu)
        except ActuatorError as error:
            return refused(ask, f"device: {error}", gpu)

    def _claim(self, plans: Sequence[Plan]) -> str:
        """Saves the old values of all knobs newly touched; returns why that failed, "" when it is done."""
        try:
            self._holdings.claim(claim for item in plans for claim in item.claims)
        except OSError as error:
            self._counts["save_failed"] += 1
            path = self.folder / "save.json"
            return f"save: {path} cannot be written ({error.strerror}): nothing was set; free or repair it"
        return ""

    def _execute(self, item: Plan, command: PowerDesired, now_s: float) -> None:
        gpu = item.gpu
        if problem := execute(item, now_s):
            item.row.status, item.row.reason = "refused", f"not_actuatable: {problem}"[:400]
            self._keeper.shun(gpu, problem, now_s)
            return
        gpu.shunned = ""
        ends_s = now_s + command.ttl_ms / 1000
        gpu.lease = Lease(
            ends_s,
            command.on_expiry,
            command.epoch,
            command.seq,
            command.mode,
            command.strategy,
            item.clocks,
            ceiling_w=item.ceiling_w,
            table=item.table,
            chosen_w=item.chosen_w,
        )
        self._brake.granted(gpu, item.braked_w)

    # -- the fast loop -------------------------------------------------------------------------------------------------

    def set_clocks(self, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
        """Sets clock locks, MHz, inside the live leases; None = back to the value found before us.

        Returns the lock in force per GPU, which differs from the wanted one where it was refused.
        """
        now_s = self._monotonic()
        return {uuid: self._fast.clock(self._gpus.get(uuid), mhz, now_s) for uuid, mhz in wanted.items()}

    def set_limits(self, wanted: Mapping[str, float | None]) -> dict[str, float | None]:
        """Sets power limits, watts, at or below the ceilings of the live leases; None = back to the ceiling.

        Returns the limit in force per GPU, which differs from the wanted one where it was refused or held.
        """
        now_s = self._monotonic()
        return {uuid: self._fast.limit(self._gpus.get(uuid), watts, now_s) for uuid, watts in wanted.items()}

    def row_load(self, watts: float | None, age_s: float) -> bool:
        """What the row's meter says (None = nothing) and its age; brakes at once. False = no meter is set up here."""
        now_s = self._monotonic()
        if not self._brake.active:
            self._counts["brake.unused"] += 1
            return False
        self._brake.load.say(watts, age_s, now_s)
        self._brake.tick(now_s)
        return True

    def tick(self) -> None:
        """Ends leases that are over, repeats failed restores, looks for foreign changes. Call it 4 times a second."""
        now_s = self._monotonic()
        self._keeper.tick(now_s)
        self._brake.tick(now_s)

    # -- giving back and telling ---------------------------------------------------------------------------------------

    def restore_all(self, reason: str) -> PowerApplied:
        """Puts back everything held and ends all leases; one row per GPU that was held, "refused" where it failed."""
        return self._keeper.restore_all(reason, self._monotonic())

    def events(self) -> list[PowerApplied]:
        """What happened without a command since the last call; each is returned once."""
        told, self._keeper.events = self._keeper.events, []
        return told

    def status(self) -> dict[str, object]:
        """What is in force now, for people and for `eo status`."""
        now_s = self._monotonic()
        return {
            "node": self.node,
            "cluster": self.cluster,
            "capper_id": self._writer.capper_id,
            "opt_in": self.settings.opt_in,
            "max_mode": self.settings.max_mode,
            "mark": list(self._mark.value),
            "counts": dict(self._counts),
            "row": self._brake.status(now_s),
            "gpus": {gpu.uuid: _gpu_status(gpu, now_s) for gpu in self._gpus.values()},
        }


def _gpu_status(gpu: Gpu, now_s: float) -> dict[str, object]:
    lease = gpu.lease
    return {
        "held": {k.actuator.knob: k.claim.ours for k in gpu.knobs if k.claim},
        "previous": {k.actuator.knob: k.claim.saved.previous for k in gpu.knobs if k.claim},
        "lease_s": None if lease is None else round(lease.expires_s - now_s, 3),
        "envelope": None if lease is None else [lease.epoch, lease.seq],
        "limits": None if lease is None else _limits(gpu, lease),
        "yielded": gpu.yielded,
        "not_actuatable": gpu.shunned,
        "restoring": gpu.restoring,
        "pending": {k.actuator.knob: k.pending.value for k in gpu.knobs if k.pending},
        "set_calls": sum(knob.set_calls for knob in gpu.knobs),
    }


def _limits(gpu: Gpu, lease: Lease) -> dict[str, float | None]:
    """What holds the power limit under a lease, watts: the lowest of them is in force."""
    return {"ceiling_w": lease.ceiling_w, "chosen_w": lease.chosen_w, "braked_w": gpu.brake.watts}
