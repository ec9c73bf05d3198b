"""The node's fast loop: within the live envelope, one clock per engine, every half second, with Kafka up or down.

It never verifies and never writes to hardware: the capper does both, and refuses what lies outside the lease. It never
touches a hold-out GPU, nor an engine of which one GPU has no grant. Unknown means release, not guess.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from agents.node import refusal
from agents.node.capper_client import CapperPort
from agents.node.engine_signal import Columns, Window, state_of
from agents.node.envelope import GRANTED, NO_TARGETS, LiveEnvelope, granted
from agents.node.errors import CapperSilent, CapperUnavailable
from models.control.profiles import profile_for
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets
from streams.contract import codec
from streams.contract.failpoints import hit
from streams.contract.records import EngineReading, NodeTelemetry, PowerApplied, PowerDesired
from streams.observe.notes import SpanNote

log = logging.getLogger(__name__)
STALE_S: Final = 2.0  # an engine silent for longer is released: its latency is unknown
STEP_MHZ: Final = 15  # grid of SM clocks on data-centre GPUs
_DROPPING: Final = frozenset({"expiry", "restore"})
_YIELDING: Final = frozenset({"foreign_change", "not_actuatable"})
Clocks = dict[str, int | None]


class ControllerPort(Protocol):
    """What the loop needs of models.control.controller.LocalController."""

    def step(
        self,
        now_s: float,
        state: EngineState | None,
        *,
        targets: Targets,
        bounds: ClockBounds,
        throttle: int,
        observed: Observed | None,
    ) -> Decision: ...


def local_controller(stack: str) -> ControllerPort:
    """The controller of a serving stack; one without a known profile only ever releases."""
    from models.control.controller import LocalController

    return LocalController(profile_for(stack))


class ControlLoop:
    """Control of one node.

    Args:
        node: its name.
        capper: where grants and clocks go.
        controllers: serving stack -> a new controller.
        cluster: for acknowledgements that the loop must write itself because no capper answers.
        monotonic: seconds; the clock of leases.
        wall_ns: for time stamps only.
        step_mhz: grid of clock locks.
    """

    def __init__(
        self,
        node: str,
        capper: CapperPort,
        controllers: Callable[[str], ControllerPort] = local_controller,
        *,
        cluster: str = "default",
        monotonic: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
        step_mhz: int = STEP_MHZ,
    ) -> None:
        self.node, self.cluster = node, cluster
        self._capper, self._make, self._step_mhz = capper, controllers, step_mhz
        self._monotonic, self._wall_ns = monotonic, wall_ns
        self._controllers: dict[str, tuple[str, ControllerPort, Window]] = {}
        self._acks: list[PowerApplied] = []
        self._yielded: set[str] = set()
        self._refused: set[tuple[str, int | None]] = set()
        self._unsure: set[str] = set()  # GPUs whose lock may be another than `locks` says: told once, also to release
        self._telemetry: tuple[NodeTelemetry, Columns, float] | None = None
        self._unavailable = False
        self.live: LiveEnvelope | None = None
        self.locks: Clocks = {}  # effective clock lock per UUID as the capper last said
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
                raw, str(error), node=self.node, cluster=self.cluster, now_ns=self._wall_ns(), silent=silent
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
            self._refused.clear()
            self._doubt()
        elif "recommended" in statuses:
            # The mode was turned down: what is held goes back now, not at the end of the lease.
            self.release()
        else:
            self.refusals_total += 1

    # --- the loop ----------------------------------------------------------------------------------------------

    def step(self, now_mono_s: float, telemetry: NodeTelemetry | None) -> None:
        """One round: the capper's events, the lease's end, then each engine's clock. Call it every 0.5 s."""
        try:
            self._hear()
            if self.live is not None and now_mono_s >= self.live.expires_s:
                self.live = None
            if self.live is None:
                self._apply({})
            elif telemetry is not None:
                self._apply(self._wanted(self.live, telemetry, now_mono_s))
        except CapperUnavailable as error:
            self._lost(error)
        else:
            if self._unavailable:
                self._unavailable = False
                log.warning("the capper answers again")

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
        for uuid in event.gpu.uuid:
            self.locks.pop(uuid, None)
        self._unsure.update(event.gpu.uuid)
        if self.live is not None and (event.epoch, event.seq) >= (self.live.epoch, self.live.seq):
            self.live = self.live.without(event.gpu.uuid)

    def _wanted(self, live: LiveEnvelope, telemetry: NodeTelemetry, now_s: float) -> Clocks:
        if self._telemetry is None or self._telemetry[0] is not telemetry:
            self._telemetry = (telemetry, Columns(telemetry), now_s)
        _, columns, seen_s = self._telemetry
        wanted: Clocks = {}
        for engine in telemetry.engines:
            age_s = (telemetry.ts_ns - engine.ts_ns) / 1e9 + now_s - seen_s
            mhz = self._engine_clock(live, engine, columns, age_s=age_s, now_s=now_s)
            for uuid in engine.gpu_uuid:
                wanted[uuid] = _faster(wanted[uuid], mhz) if uuid in wanted else mhz
        return {uuid: mhz for uuid, mhz in wanted.items() if uuid in live.ranges and uuid not in self._yielded}

    def _engine_clock(
        self, live: LiveEnvelope, engine: EngineReading, columns: Columns, *, age_s: float, now_s: float
    ) -> int | None:
        rows = columns.rows(engine.gpu_uuid)
        bounds = live.bounds(engine.gpu_uuid, default_mhz=columns.sm_max_mhz(rows), step_mhz=self._step_mhz)
        if bounds is None or self._yielded.intersection(engine.gpu_uuid):
            self.reasons[engine.engine] = "not every GPU of the engine is granted"
            return None
        controller, window = self._controller(engine)
        decision = controller.step(
            now_s,
            state_of(engine, age_s),
            targets=live.targets.get(engine.engine, NO_TARGETS),
            bounds=bounds,
            throttle=columns.throttle(rows),
            observed=window.observe(engine, columns, rows),
        )
        self.reasons[engine.engine] = decision.reason
        if decision.sm_mhz is None or age_s > STALE_S:
            return None
        return min(max(decision.sm_mhz, bounds.min_mhz), bounds.max_mhz)

    def _controller(self, engine: EngineReading) -> tuple[ControllerPort, Window]:
        held = self._controllers.get(engine.engine)
        if held is None or held[0] != engine.stack:
            held = self._controllers[engine.engine] = (engine.stack, self._make(engine.stack), Window())
        return held[1], held[2]

    # --- clocks ------------------------------------------------------------------------------------------------

    def _apply(self, wanted: Mapping[str, int | None]) -> None:
        """Sends what differs from what is in force or may differ, but not again what was just refused."""
        held, unsure = self.locks, self._unsure
        goal: Clocks = {uuid: None for uuid, mhz in held.items() if mhz is not None}
        goal.update(dict.fromkeys(unsure))
        goal.update(wanted)
        change = {
            uuid: mhz
            for uuid, mhz in goal.items()
            if (uuid in unsure or (held.get(uuid) != mhz and (uuid, mhz) not in self._refused))
            and uuid not in self._yielded
        }
        if not change:
            return
        effective = self._capper.set_clocks(change)
        self.locks.update(effective)
        unsure.difference_update(change)
        self._refused.update((uuid, mhz) for uuid, mhz in change.items() if effective.get(uuid) != mhz)

    def release(self) -> None:
        """Gives every lock back now, as at the end of a lease."""
        self.live = None
        try:
            self._apply({})
        except CapperUnavailable as error:
            self._lost(error)

    def _lost(self, error: CapperUnavailable) -> None:
        # A capper that restarted has put everything back, one that was only slow still holds its locks: assume neither.
        self._doubt()
        self.live = None
        self.locks.clear()
        if not self._unavailable:
            self._unavailable = True
            log.warning("%s", error)

    def _doubt(self) -> None:
        """No lock that this node has or may set is taken as known until it was told once more."""
        self._unsure.update(self.locks)
        if self.live is not None:
            self._unsure.update(self.live.ranges)


def _faster(one: int | None, other: int | None) -> int | None:
    """The clock of a GPU that two engines share: release wins, then the higher one."""
    return None if one is None or other is None else max(one, other)
