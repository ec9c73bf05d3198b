"""What the actuation job remembers: per node what it was granted, per partition who is held out, frozen or left alone.

Values and their snapshot form only; deciding and sending happen elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from models.policy.holdout import DEFAULT_CANARY_RATIO, in_holdout, promote
from streams.contract.records import DeviceColumns, EngineReading, Mode, OnExpiry, OperatorIntent, Texts
from streams.jobs.actuation_restraints import Block, Freeze, Restraints
from streams.settings import WorkerSettings

SNAPSHOT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Options:
    """The actuation job's figures. Seconds unless the name says otherwise."""

    cluster: str
    mode: Mode
    strategy: str
    holdout_ratio: float
    interval_s: float
    ttl_ms: int
    canary_ratio: float = DEFAULT_CANARY_RATIO
    on_expiry: OnExpiry = "restore"
    latency_window_s: float = 120.0
    guard_every_s: float = 10.0
    freeze_s: float = 120.0  # how long an anomaly keeps a GPU at default after its last verdict
    settle_s: float = 3.0  # the roster of a new partition must be known before anything is granted in it
    retry_s: float = 600.0  # after a GPU did not obey; a foreign change has no such end
    oldest_sample_s: float = 30.0  # older telemetry decides nothing: the leases run out instead

    @classmethod
    def of(cls, settings: WorkerSettings) -> Options:
        return cls(
            cluster=settings.cluster,
            mode=settings.mode,
            strategy=settings.strategy,
            holdout_ratio=settings.holdout_ratio,
            interval_s=settings.envelope_interval_s,
            ttl_ms=settings.ttl_ms,
        )


class Snapshot(msgspec.Struct, kw_only=True):
    """The part of a partition's state that must outlive the process."""

    epoch: int = 0
    promoted: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    groups: dict[str, str] = {}
    ceilings: dict[str, dict[str, float]] = {}  # node -> GPU -> watts that its row granted
    unsettled: dict[str, dict[str, float]] = {}  # the same, of higher ones that the node has not yet answered away
    outside: dict[str, dict[str, float]] = {}  # the same, of GPUs that no ceiling reaches, with their own limit
    frozen: dict[str, Freeze] = {}
    blocked: dict[str, Block] = {}
    intents: tuple[OperatorIntent, ...] = ()


@dataclass(slots=True)
class NodeState:
    """The newest features of a node and what was granted on them."""

    node: str
    boot_id: str = ""
    seq: int = -1
    window_end_ns: int = 0
    uuid: tuple[str, ...] = ()
    name: Texts | None = None
    device: DeviceColumns | None = None
    engines: tuple[EngineReading, ...] = ()
    power_w: tuple[float | None, ...] = ()  # newest, one per GPU
    issued_s: float | None = None  # monotonic; None = never, or rolled back
    urgent: bool = False
    silenced: bool = False  # the one envelope that a pause is allowed has been sent
    trace: str | None = None  # context of the newest traced sample that no decision has used yet
    granted: frozenset[str] = frozenset()  # GPUs with a clock granted for real: their engines are "controlled"


@dataclass(slots=True)
class PartitionState:
    """One partition: its nodes and its groups."""

    partition: int
    since_s: float
    recovered: bool = False
    nodes: dict[str, NodeState] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)  # GPU -> engine, kept when the engine falls silent
    sizes: dict[str, int] = field(default_factory=dict)  # group -> GPUs
    promoted: frozenset[str] = frozenset()
    held: set[str] = field(default_factory=set)  # GPUs that were ever held out: they stay so under any engine's name
    held_groups: set[str] = field(default_factory=set)  # groups with such a GPU
    restraints: Restraints = field(default_factory=Restraints)
    offsets: dict[str, int] = field(default_factory=dict)  # topic -> next
    ceilings: dict[str, dict[str, float]] = field(default_factory=dict)  # node -> GPU -> watts that its row granted
    unsettled: dict[str, dict[str, float]] = field(default_factory=dict)  # the same, not yet answered away
    outside: dict[str, dict[str, float]] = field(default_factory=dict)  # the same, of GPUs at their own limit
    roster_changed: bool = False
    dirty: bool = False

    def settled(self, now_s: float, settle_s: float) -> bool:
        """Whether the roster is known well enough to choose the hold-out from it."""
        return self.recovered or now_s - self.since_s >= settle_s

    def enrol(self, node: NodeState) -> None:
        """Brings the groups up to date with a node's GPUs and engines. An engine that falls silent keeps its GPUs:
        otherwise a failed scrape would move them in or out of the hold-out."""
        for engine in node.engines:
            for uuid in engine.gpu_uuid:
                if self.group_of.get(uuid) != engine.engine:
                    self._move(uuid, engine.engine)
        for uuid in node.uuid:
            if uuid not in self.group_of:
                self._move(uuid, uuid)

    def _move(self, uuid: str, group: str) -> None:
        old = self.group_of.get(uuid)
        if old is not None:
            self.sizes[old] -= 1
            if self.sizes[old] == 0:
                del self.sizes[old]
                self.held_groups.discard(old)
        self.group_of[uuid] = group
        self.sizes[group] = self.sizes.get(group, 0) + 1
        if uuid in self.held:
            self.held_groups.add(group)
        self.roster_changed = True

    def engine_of(self, uuid: str) -> str | None:
        """The engine that a GPU serves or last served."""
        group = self.group_of.get(uuid)
        return None if group is None or group == uuid else group

    def fill_holdout(self, options: Options) -> bool:
        """Promotes groups where the hash left too few and remembers who is held out; true when there are more."""
        self.roster_changed = False
        before, known = self.promoted, len(self.held)
        counted = before | self.held_groups
        self.promoted = before | (
            promote(self.sizes, options.cluster, ratio=options.holdout_ratio, promoted=counted) - counted
        )
        self._remember(options)
        return self.promoted != before or len(self.held) > known

    def _remember(self, options: Options) -> None:
        self.held |= {uuid for uuid in self.group_of if self.held_out(uuid, options)}
        self.held_groups = {self.group_of[uuid] for uuid in self.held if uuid in self.group_of}

    def held_out(self, uuid: str, options: Options) -> bool:
        """Whether a GPU belongs to the hold-out."""
        group = self.group_of.get(uuid, uuid)
        known = group in self.held_groups or group in self.promoted
        return known or in_holdout(options.cluster, group, options.holdout_ratio)

    def snapshot(self, epoch: int, intents: tuple[OperatorIntent, ...]) -> Snapshot:
        return Snapshot(
            epoch=epoch,
            promoted=tuple(sorted(self.promoted)),
            held=tuple(sorted(self.held)),
            groups=dict(self.group_of),
            ceilings=self.ceilings,
            unsettled=self.unsettled,
            outside=self.outside,
            frozen=dict(self.restraints.frozen),
            blocked=dict(self.restraints.blocked),
            intents=intents,
        )

    def recover(self, snapshot: Snapshot, options: Options) -> None:
        """Takes a snapshot in. One written before `held` was kept says by its groups who was held out."""
        self.promoted, self.held = frozenset(snapshot.promoted), set(snapshot.held)
        self.ceilings, self.unsettled, self.outside = snapshot.ceilings, snapshot.unsettled, snapshot.outside
        for uuid, group in snapshot.groups.items():
            self._move(uuid, group)
        self._remember(options)
        self.restraints = Restraints(dict(snapshot.frozen), dict(snapshot.blocked))
        self.recovered = bool(snapshot.groups)
