"""Many simulated nodes in one process: the node agent's and the capper's own classes on the twin, driven by one clock.

Nothing here is a shortcut around them: samples go through the spool, commands through verification, limits through the
capper into registers that outlive the process. Real time or any other: `step` takes the moments as arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import msgspec

from agents.capper.actuators.twin import TwinActuator, TwinRegisters
from agents.capper.core import Capper
from agents.capper.settings import CapperSettings
from agents.fleet.bank import Bank
from agents.fleet.registers import Registers
from agents.fleet.training import TrainingJobs
from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.publisher import EventPublisher
from agents.node.sources.twin import TwinSource
from agents.node.spool import Spool
from agents.node.training_rules import TrainingRules
from models.twin.cluster import TwinCluster
from streams.contract.layout import Layout
from streams.contract.records import PowerApplied
from streams.contract.signing import KeyRing

if TYPE_CHECKING:
    from agents.node.tracing import NodeTracing

SLOTS: Final = 10  # parts of a second; each node samples in one of them, as unsynchronised nodes would
SLOT_S: Final = 1.0 / SLOTS
LEAST_S: Final = 1e-3  # two slots at one moment
CATCH_UP_S: Final = 2.0  # what lies further back is lost time, not raced after
GPUS_PER_ENGINE: Final = 4


@dataclass(frozen=True, slots=True)
class SimulatedNode:
    """One node: its agent, its capper, and the slots of the second in which it works."""

    agent: NodeAgent
    capper: Capper
    slot: int

    @property
    def controlled(self) -> bool:
        """Whether anything is granted: only then is an arrival worth a round out of turn."""
        return self.agent.control is not None and self.agent.control.live is not None


class Fleet:
    """All nodes, moved together. `start` restores what an earlier fleet left set; `close` restores everything."""

    def __init__(self, registers: Registers, nodes: list[SimulatedNode], bank: Bank, events: EventPublisher) -> None:
        self.registers, self.nodes, self._bank, self._events = registers, nodes, bank, events
        self._slot = 0
        self._moved_s: float | None = None
        self.silent: frozenset[str] = frozenset()  # nodes whose agent a fault has stopped; their cappers live
        self.holdout: dict[str, bool] = {}  # engine -> what its newest envelope said

    def start(self) -> None:
        for node in self.nodes:
            node.capper.start()
            node.agent.control_step(0.0)

    def step(self, *, wall_ns: int, mono_s: float) -> None:
        """One slot: the twin moves, a tenth of the nodes sample, a fifth control, half tick their leases.

        The twin lives in this machine's time, however late a slot comes: tokens and energy of a simulation that ran
        slower or faster than the time stamps on them would look like engines that changed.
        """
        passed_s = SLOT_S if self._moved_s is None else mono_s - self._moved_s
        self._moved_s = mono_s
        self._bank.advance(min(max(passed_s, LEAST_S), CATCH_UP_S))
        slot, half = self._slot, self._slot % (SLOTS // 2)
        joined = self._bank.joined()
        for index, node in enumerate(self.nodes):
            speaks = node.agent.node not in self.silent
            if speaks and node.slot == slot:
                node.agent.sample(wall_ns)
            if node.slot % 2 == slot % 2:
                node.capper.tick()
            if speaks and node.slot % (SLOTS // 2) == half:
                node.agent.control_step(mono_s)
            elif speaks and index in joined and node.controlled:
                node.agent.control_step(mono_s, only=joined[index])  # the twin gives word of arrivals
        self._slot = (slot + 1) % SLOTS

    def command(self, node: SimulatedNode, raw: bytes, received_ns: int) -> PowerApplied | None:
        """One command for a node; one whose agent is stopped gets none, as a dead process would."""
        told = _holdout(raw)
        if told is not None:
            self.holdout |= {e: held for e, held in zip(told.engine, told.holdout, strict=False) if e is not None}
        return None if node.agent.node in self.silent else node.agent.command(raw, received_ns)

    def close(self) -> None:
        """Puts every device back and spools the acknowledgements of it."""
        for node in self.nodes:
            ack = node.capper.restore_all("the fleet is stopping")
            if ack.gpu.uuid:
                self._events.put(ack)
            node.capper.close()
            node.agent.close()


class _Told(msgspec.Struct):
    """Of an envelope: who is held out."""

    engine: list[str | None] = []
    holdout: list[bool] = []


class _Envelope(msgspec.Struct):
    gpu: _Told


_ENVELOPE: Final = msgspec.json.Decoder(_Envelope)


def _holdout(raw: bytes) -> _Told | None:
    """None for what is no envelope: to refuse it is the capper's work."""
    try:
        return _ENVELOPE.decode(raw).gpu
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def build(
    *,
    layout: Layout,
    registers: Registers,
    twin: TwinCluster,
    spool: Spool,
    events: EventPublisher,
    keyring: KeyRing,
    monotonic: Callable[[], float],
    wall_ns: Callable[[], int],
    settings: CapperSettings | None = None,
    tracing: NodeTracing | None = None,
    training: TrainingJobs | None = None,
    rules: TrainingRules | None = None,
) -> Fleet:
    """Assembles a fleet over existing registers; every node opts in, because nothing here is real hardware.

    `training`: jobs of the nodes that train instead of serving; `rules`: how those nodes run them.
    """
    settings = settings or CapperSettings(opt_in=True, max_mode="on", actuator="twin", max_ttl_s=30.0)
    bank = Bank(registers, twin, gpus_per_engine=GPUS_PER_ENGINE, training=training)
    nodes = []
    for index, name in enumerate(registers.nodes):
        rows = {uuid: registers.rows[uuid] for uuid in registers.node_uuids(index)}
        view = cast(TwinRegisters, registers)
        capper = Capper(
            node=name,
            cluster=registers.cluster,
            settings=settings,
            power=TwinActuator(view, "power_limit_w", rows),
            clock=TwinActuator(view, "sm_lock_mhz", rows),
            folder=layout.capper / name,
            keyring=keyring,
            monotonic=monotonic,
            wall_ns=wall_ns,
        )
        control = ControlLoop(
            name, capper, cluster=registers.cluster, monotonic=monotonic, wall_ns=wall_ns, training=rules
        )
        agent = NodeAgent(
            registers.cluster, name, [TwinSource(bank, index)], spool, control, events=events, tracing=tracing
        )
        nodes.append(SimulatedNode(agent, capper, index % SLOTS))
    return Fleet(registers, nodes, bank, events)
