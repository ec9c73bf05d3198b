"""The node's fast loop: within the live envelope, one clock per engine, every half second, with Kafka up or down.

It never verifies and never writes to hardware: the capper does both, and refuses what lies outside the lease. It never
touches a hold-out GPU, nor an engine of which one GPU has no grant. Unknown means release, not guess.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar

from agents.node import refusal
from agents.node.capper_client import CapperPort
from agents.node.controllers import ChunkPort, ChunkRange, local_controller
from agents.node.drift_ack import DriftWords
from agents.node.engine_drive import STALE_S, ControllerPort, Drive, ServingDrive, Situation
from agents.node.engine_signal import Columns
from agents.node.envelope import GRANTED, NO_TARGETS, LiveEnvelope, granted
from agents.node.errors import CapperSilent, CapperUnavailable
from agents.node.knobs import Clocks, Knobs, Limits
from agents.node.misses import SLO, Slo
from agents.node.row_meter import RowLine, RowMeter
from agents.node.training_rules import TrainingRules
from models.control.training_group import RankGroup
from streams.contract import codec, records
from streams.contract.failpoints import hit
from streams.contract.records import EngineReading, NodeTelemetry, PowerApplied, PowerDesired
from streams.observe.notes import SpanNote

log = logging.getLogger(__name__)
V = TypeVar("V", int, float)
TRAINING: Final = "training"  # kind of an engine that serves nobody
STEP_MHZ: Final = 15  # grid of SM clocks on data-centre GPUs
MOST_GONE: Final = 64  # engines that are remembered though they left
_DROPPING: Final = frozenset({"expiry", "restore"})
_YIELDING: Final = frozenset({"foreign_change", "not_actuatable"})
Wanted = tuple[Clocks, Limits]
Chosen = tuple[int | None, float | None]


class ControlLoop:
    """Control of one node.

    Args:
        node: its name.
        capper: where grants and clocks go.
        controllers: (serving stack, chunk sizes that its engine takes) -> a new controller.
        cluster: for acknowledgements that the loop must write itself because no capper answers.
        monotonic: seconds; the clock of leases.
        wall_ns: for time stamps only.
        step_mhz: grid of clock locks.
        slo: what no request should exceed; the hour's misses are counted against it.
        chunks: where chunk sizes go; None = no engine of this node takes one.
        training: how training jobs are run.
        row: the meter of this node's row, which the capper brakes by; None = there is none.
    """

    def __init__(
        self,
        node: str,
        capper: CapperPort,
        controllers: Callable[[str, ChunkRange | None], ControllerPort] = local_controller,
        *,
        cluster: str = "default",
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        step_mhz: int = STEP_MHZ,
        slo: Slo = SLO,
        chunks: ChunkPort | None = None,
        training: TrainingRules | None = None,
        row: RowMeter | None = None,
    ) -> None:
        self.node, self.cluster = node, cluster
        self._capper, self._make, self._step_mhz = capper, controllers, step_mhz
        self._monotonic, self.wall_ns = monotonic, wall_ns
        self._slo, self._chunks, self.row = slo, chunks, row
        self._row_line = None if row is None else RowLine(capper, row)
        self._training = training or TrainingRules()
        self._groups: dict[str, RankGroup] = {}
        self._drives: dict[str, tuple[str, Drive]] = {}
        self._chosen: dict[str, Chosen] = {}  # engine -> clock and limit of its last decision
        self._chunked: dict[str, int] = {}  # engine -> chunk size that we set
        self._drift = DriftWords(node, cluster)
        self._acks: list[PowerApplied] = []
        self._yielded: set[str] = set()
        self._knobs = Knobs(capper)
        self._telemetry: tuple[NodeTelemetry, Columns, float] | None = None
        self._unavailable = False
        self.live: LiveEnvelope | None = None
        self.reasons: dict[str, str] = {}  # engine -> why its clock is what it is
        self.refusals_total = 0
        self.notes: Sequence[SpanNote] = ()  # spans of the last traced command's grant
        self.capper_pid = 0

    # --- commands ----------------------------------------------------------------------------------------------

    def on_command(self, raw: bytes, received_ns: int, *, traceparent: str = "") -> PowerApplied:
        """Passes a command to the capper and takes up what it granted; the answer is queued for `acks` as well.

        With a traceparent the capper's spans are in `notes` afterwards.
        """
        received_s = self._monotonic()
        self.notes = ()
        try:
            if traceparent:
                ack, self.notes, self.capper_pid = self._capper.grant_traced(
                    raw, received_ns=received_ns, traceparent=traceparent
                )
            else:
                ack = self._capper.grant(raw, received_ns=received_ns)
        except CapperUnavailable as error:
            self._lost(error)
            silent = isinstance(error, CapperSilent)
            ack = refusal.of(
                raw, str(error), node=self.node, cluster=self.cluster, now_ns=self.wall_ns(), silent=silent
            )
        hit("agent.cmd_after_verify")
        self._acks.append(ack)
        self._take_up(raw, ack, received_s)
        return ack

    def _take_up(self, raw: bytes, ack: PowerApplied, received_s: float) -> None:
        statuses = set(ack.gpu.status)
        if statuses & GRANTED:
            self.live = granted(codec.decode(PowerDesired, raw), ack, received_s=received_s)
            self._yielded.clear()
            self._knobs.granted(self.live)
        elif "recommended" in statuses:
            # The mode was turned down: what is held goes back now, not at the end of the lease.
            self.release()
        else:
            self.refusals_total += 1

    # --- the loop ----------------------------------------------------------------------------------------------

    def step(
        self,
        now_mono_s: float,
        telemetry: NodeTelemetry | None,
        fresh: Sequence[EngineReading] = (),
        *,
        only: frozenset[str] | None = None,
    ) -> None:
        """One round: the capper's events, the lease's end, then each engine's clock. Call it every 0.5 s.

        Args:
            now_mono_s: the clock of leases.
            telemetry: the newest record.
            fresh: engines that have said something since; they count instead of the record's.
            only: decide for these engines, a round out of turn; the others keep what they have.
        """
        try:
            self._hear()
            if self._row_line is not None:
                self._row_line.tell()
            if self.live is not None and now_mono_s >= self.live.expires_s:
                self.live = None
            wanted: Wanted = ({}, {}) if telemetry is None else self._wanted(telemetry, fresh, now_mono_s, only=only)
            if self.live is None or telemetry is not None:
                self._knobs.apply(*wanted, but=self._yielded)
            # After the clocks went back: told once, unasked.
            self._acks += self._drift.due(
                now_mono_s, now_ns=self.wall_ns(), locks=self.locks, live=self.live, telemetry=telemetry
            )
        except CapperUnavailable as error:
            self._lost(error)
        else:
            if self._unavailable:
                self._unavailable = False
                log.warning("the capper answers again")

    def report(self, engine: str) -> records.EngineControl | None:
        """What is learned of an engine and how well it is predicted; None for one that was never seen."""
        held = self._drives.get(engine)
        return None if held is None else held[1].report()

    def acks(self) -> list[PowerApplied]:
        """Everything that must be published, each once, in order."""
        out, self._acks = self._acks, []
        return out

    @property
    def capper_answers(self) -> bool:
        """Whether the capper answered the last question."""
        return not self._unavailable

    def remaining_s(self, now_mono_s: float) -> float | None:
        """Seconds that the live lease still has; None without one."""
        return None if self.live is None else max(0.0, self.live.expires_s - now_mono_s)

    def _hear(self) -> None:
        for event in self._capper.events():
            self._acks.append(event)
            if event.event in _DROPPING:
                self._drop(event)
            elif event.event in _YIELDING:
                self._yielded.update(event.gpu.uuid)

    def _drop(self, event: PowerApplied) -> None:
        """Forgets the locks of the event's GPUs, and their grants unless a later command granted them again."""
        self._knobs.dropped(event.gpu.uuid)
        if self.live is not None and (event.epoch, event.seq) >= (self.live.epoch, self.live.seq):
            self.live = self.live.without(event.gpu.uuid)

    def _wanted(
        self,
        telemetry: NodeTelemetry,
        fresh: Sequence[EngineReading],
        now_s: float,
        *,
        only: frozenset[str] | None,
    ) -> Wanted:
        if self._telemetry is None or self._telemetry[0] is not telemetry:
            self._telemetry = (telemetry, Columns(telemetry), now_s)
        _, columns, seen_s = self._telemetry
        wall_ns = self.wall_ns() if fresh else 0
        aged = {e.engine: (e, (telemetry.ts_ns - e.ts_ns) / 1e9 + now_s - seen_s) for e in telemetry.engines}
        aged |= {e.engine: (e, (wall_ns - e.ts_ns) / 1e9) for e in fresh}
        clocks: Clocks = {}
        limits: Limits = {}
        for engine, age_s in aged.values():
            if only is None or engine.engine in only or engine.engine not in self._chosen:
                self._chosen[engine.engine] = self._decide(engine, columns, age_s=age_s, now_s=now_s)
            mhz, watts = self._chosen[engine.engine]
            for uuid in engine.gpu_uuid:
                clocks[uuid] = _faster(clocks[uuid], mhz) if uuid in clocks else mhz
                limits[uuid] = _faster(limits[uuid], watts) if uuid in limits else watts
        self._forget(aged)
        live = self.live
        if live is None:
            return {}, {}
        ours = live.ranges.keys() - self._yielded
        return (
            {uuid: mhz for uuid, mhz in clocks.items() if uuid in ours},
            {uuid: watts for uuid, watts in limits.items() if uuid in ours and uuid in live.ceilings},
        )

    def _decide(self, engine: EngineReading, columns: Columns, *, age_s: float, now_s: float) -> Chosen:
        """Lock and limit of all GPUs of an engine; None = its own clocks, the ceiling."""
        rows, live, name = columns.rows(engine.gpu_uuid), self.live, engine.engine
        bounds = ceiling_w = None
        if live is not None and not self._yielded.intersection(engine.gpu_uuid):
            bounds = live.bounds(engine.gpu_uuid, default_mhz=columns.sm_max_mhz(rows), step_mhz=self._step_mhz)
            ceiling_w = live.ceiling_w(engine.gpu_uuid)
        targets = NO_TARGETS if live is None else live.targets.get(name, NO_TARGETS)
        drive = self._drive(engine, now_s)
        in_force = self._knobs.in_force(engine.gpu_uuid)
        situation = Situation(
            engine, columns, rows, age_s, bounds, targets, self._step_mhz, ceiling_w=ceiling_w, in_force=in_force
        )
        decision = drive.decide(now_s, situation)
        self.reasons[name] = decision.reason
        if drive.drift is not None:
            self._drift.note(name, drive.drift, engine.gpu_uuid)
        stale = bounds is None or age_s > STALE_S
        self._take_chunk(name, None if stale else decision.chunk_tokens)
        if bounds is None or stale:
            return None, None
        mhz, watts = decision.sm_mhz, decision.limit_w
        return (
            None if mhz is None else min(max(mhz, bounds.min_mhz), bounds.max_mhz),
            None if watts is None or ceiling_w is None or watts >= ceiling_w else watts,
        )

    def _drive(self, engine: EngineReading, now_s: float) -> Drive:
        held = self._drives.get(engine.engine)
        if held is None or held[0] != engine.stack:
            held = self._drives[engine.engine] = (engine.stack, self._new_drive(engine, now_s))
        return held[1]

    def _new_drive(self, engine: EngineReading, now_s: float) -> Drive:
        if engine.kind == TRAINING:
            from agents.node.training_drive import new_drive  # most nodes train nothing

            return new_drive(engine.engine, self._training, self._groups)
        takes = None if self._chunks is None else self._chunks.chunk_range(engine.engine)
        return ServingDrive(self._make(engine.stack, takes), now_s=now_s, slo=self._slo)

    def _take_chunk(self, engine: str, tokens: int | None) -> None:
        if self._chunks is not None and self._chunked.get(engine) != tokens:
            self._chunks.set_chunk(engine, tokens)
            if tokens is None:
                del self._chunked[engine]
            else:
                self._chunked[engine] = tokens

    def _forget(self, present: Mapping[str, object]) -> None:
        """Lets engines go that are not there: names that change with each start must not fill the memory."""
        for name in self._chosen.keys() - present.keys():
            del self._chosen[name]
            self._take_chunk(name, None)
        if len(self._drives) > 2 * len(present) + MOST_GONE:
            self._drives = {name: held for name, held in self._drives.items() if name in present}
            self.reasons = {name: why for name, why in self.reasons.items() if name in present}

    # --- clocks ------------------------------------------------------------------------------------------------

    @property
    def locks(self) -> Clocks:
        """Effective clock lock per UUID as the capper last said."""
        return self._knobs.locks

    @property
    def limits(self) -> Limits:
        """Power limits below the ceilings of their leases, per UUID, as the capper last said; None = at the ceiling."""
        return self._knobs.limits

    def release(self) -> None:
        """Gives every lock back now, as at the end of a lease."""
        self.live = None
        for name in list(self._chunked):
            self._take_chunk(name, None)
        try:
            self._knobs.apply({}, {}, but=self._yielded)
        except CapperUnavailable as error:
            self._lost(error)

    def _lost(self, error: CapperUnavailable) -> None:
        self._knobs.lost(self.live)
        self.live = None
        if not self._unavailable:
            self._unavailable = True
            log.warning("%s", error)


def _faster(one: V | None, other: V | None) -> V | None:
    """The clock, or the limit, of a GPU that two engines share: release wins, then the higher one."""
    return None if one is None or other is None else max(one, other)
