"""What the actuation job remembers: per node what it was granted, per partition who is held out, frozen or left alone.

Values and their snapshot form only; deciding and sending happen elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from models.policy.holdout import DEFAULT_CANARY_RATIO, Group, choose, in_holdout
from streams.contract.records import (
    DeviceColumns,
    EngineReading,
    EnvelopeColumns,
    Mode,
    OnExpiry,
    OperatorIntent,
    Texts,
)
from streams.jobs.actuation_load import Side
from streams.jobs.actuation_restraints import Block, Freeze, Restraints
from streams.settings import WorkerSettings

SNAPSHOT_VERSION: Final = 1
ABSENT_S: Final = 900.0
LONGEST_STEP_S: Final = 5.0  # a longer silence of a whole partition tells nothing about who has left it


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
    settle_s: float = 3.0  # after a new partition's first report: who is there must be known before anything is granted
    absent_s: float = ABSENT_S  # a GPU that others outlast by this is gone, and the hold-out must not rest on it
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
    promoted: tuple[str, ...] = ()  # groups held out beside the hash's; not written any more, `held` says it
    held: tuple[str, ...] = ()
    lone_on: dict[str, str] = {}  # GPU that serves nothing -> its node, whose hash decides
    chosen: bool = True  # false: saved before the roster was known, so that nobody was promoted yet
    groups: dict[str, str] = {}
    absent: tuple[str, ...] = ()
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
    leased: frozenset[str] = frozenset()  # GPUs with anything granted for real: a clock, or a limit alone


@dataclass(slots=True)
class PartitionState:
    """One partition: its nodes and its groups."""

    partition: int
    since_s: float
    recovered: bool = False
    chosen: bool = False  # whether the hold-out was ever chosen from a whole roster
    nodes: dict[str, NodeState] = field(default_factory=dict)
    group_of: dict[str, str] = field(default_factory=dict)  # GPU -> engine, kept when the engine falls silent
    node_of: dict[str, str] = field(default_factory=dict)  # GPU that served nothing when it came -> node
    sizes: dict[str, int] = field(default_factory=dict)  # group -> GPUs
    gone: dict[str, int] = field(default_factory=dict)  # group -> those of them that are absent
    seen_s: dict[str, float] = field(default_factory=dict)  # GPU -> `heard_s` of its last report
    absent: set[str] = field(default_factory=set)  # GPUs that are gone; each keeps its group and whether it is held
    heard_s: float = 0.0  # time in which the partition reported, so that a pause of all telemetry ages nobody
    heard_at_s: float | None = None  # when it last reported
    granted_s: dict[str, float] = field(default_factory=dict)  # GPU -> when it was last granted anything
    held: set[str] = field(default_factory=set)  # GPUs held out for ever, under any engine's name
    held_groups: set[str] = field(default_factory=set)  # groups with such a GPU: held out as a whole
    unasked: set[str] = field(default_factory=set)  # GPUs that came since the hold-out was last chosen
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

    def enrol(self, node: NodeState, now_s: float) -> None:
        """Brings the groups up to date with a node's GPUs and engines. An engine that falls silent keeps its GPUs:
        otherwise a failed scrape would move them in or out of the hold-out."""
        self._hear(now_s)
        for engine in node.engines:
            for uuid in engine.gpu_uuid:
                self._see(uuid)
                if self.group_of.get(uuid) != engine.engine:
                    self._move(uuid, engine.engine)
        for uuid in node.uuid:
            self._see(uuid)
            if uuid not in self.group_of:
                self._move(uuid, uuid)
            if self.group_of[uuid] == uuid:
                self.node_of[uuid] = node.node

    def _hear(self, now_s: float) -> None:
        if self.heard_at_s is None:
            self.since_s = self.heard_at_s = now_s  # before anybody reported there was no roster to know
        self.heard_s += min(max(0.0, now_s - self.heard_at_s), LONGEST_STEP_S)
        self.heard_at_s = now_s

    def _see(self, uuid: str) -> None:
        self.seen_s[uuid] = self.heard_s
        if uuid in self.absent:
            self.absent.discard(uuid)
            self._absentees(self.group_of[uuid], -1)
            if uuid in self.held:
                self.held_groups.add(self.group_of[uuid])

    def leave(self, absent_s: float) -> None:
        """Stops counting GPUs that did not report for `absent_s` while others did: the hold-out is a share of those
        that are there."""
        last = self.heard_s - absent_s
        for uuid in [uuid for uuid, seen_s in self.seen_s.items() if seen_s <= last]:
            self._miss(uuid)

    def _miss(self, uuid: str) -> None:
        del self.seen_s[uuid]
        self.absent.add(uuid)
        self._absentees(self.group_of[uuid], 1)

    def _absentees(self, group: str, change: int) -> None:
        self.gone[group] = self.gone.get(group, 0) + change
        if self.gone[group] == 0:
            del self.gone[group]
        self.roster_changed = True

    def _move(self, uuid: str, group: str) -> None:
        old = self.group_of.get(uuid)
        if old is None:
            self.unasked.add(uuid)
        else:
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
        """Chooses the hold-out for the roster as it is now; true when it changed."""
        self.roster_changed, self.chosen = False, True
        before = frozenset(self.held), frozenset(self.held_groups)
        held = Counter(self.group_of[uuid] for uuid in self.held if uuid in self.group_of)
        groups = {
            name: Group(size - self.gone.get(name, 0), held[name], self.node_of.get(name, ""))
            for name, size in self.sizes.items()
        }
        self.held_groups = set(choose(groups, options.cluster, ratio=options.holdout_ratio))
        joined = {name for name in self.held_groups if not held[name]}
        self.held |= {uuid for uuid, name in self.group_of.items() if name in joined}
        self.unasked -= self.seen_s.keys()
        return (frozenset(self.held), frozenset(self.held_groups)) != before

    def kept_out(self, uuids: Iterable[str]) -> bool:
        """Whether any of these GPUs is held out."""
        return any(uuid in self.held or self.group_of.get(uuid) in self.held_groups for uuid in uuids)

    def held_out(self, uuid: str, options: Options) -> bool:
        """Whether a GPU belongs to the hold-out; of one that has just come the hash says what it will be."""
        group = self.group_of.get(uuid, uuid)
        new = uuid in self.unasked or uuid not in self.group_of
        return (
            uuid in self.held
            or group in self.held_groups
            or (new and in_holdout(options.cluster, self.node_of.get(group, group), options.holdout_ratio))
        )

    def side(self, node: NodeState, engine: EngineReading, options: Options, now_s: float) -> Side:
        """The group that an engine's reading is measured for. One that joined the hold-out while it was granted
        something shows what default clocks cost only when its last lease is over."""
        if not any(self.held_out(uuid, options) for uuid in engine.gpu_uuid):
            return "controlled" if node.granted.issuperset(engine.gpu_uuid) else "default"
        over_s = now_s - options.ttl_ms / 1e3
        leased = any(self.granted_s.get(uuid, over_s) > over_s for uuid in engine.gpu_uuid)
        return "default" if leased else "holdout"

    def note_grants(self, node: NodeState, gpu: EnvelopeColumns, now_s: float) -> None:
        """Remembers what a node's newest envelope grants for real."""
        node.granted = frozenset(uuid for uuid, mhz in zip(gpu.uuid, gpu.max_sm_mhz, strict=True) if mhz is not None)
        limited = frozenset(uuid for uuid, watts in zip(gpu.uuid, gpu.max_power_w, strict=True) if watts is not None)
        node.leased = node.granted | limited
        self.granted_s.update(dict.fromkeys(node.leased, now_s))

    def snapshot(self, epoch: int, intents: tuple[OperatorIntent, ...]) -> Snapshot:
        return Snapshot(
            epoch=epoch,
            held=tuple(sorted(self.held)),
            chosen=self.chosen,
            groups=dict(self.group_of),
            lone_on={uuid: node for uuid, node in self.node_of.items() if self.group_of.get(uuid) == uuid},
            absent=tuple(sorted(self.absent)),
            ceilings=self.ceilings,
            unsettled=self.unsettled,
            outside=self.outside,
            frozen=dict(self.restraints.frozen),
            blocked=dict(self.restraints.blocked),
            intents=intents,
        )

    def recover(self, snapshot: Snapshot, options: Options) -> None:
        """Takes a snapshot in. One written before `held` was kept says by its groups who was held out."""
        self.held, self.node_of = set(snapshot.held), dict(snapshot.lone_on)
        self.ceilings, self.unsettled, self.outside = snapshot.ceilings, snapshot.unsettled, snapshot.outside
        for uuid, group in snapshot.groups.items():
            self._see(uuid)
            self._move(uuid, group)
        self.recovered = self.chosen = bool(snapshot.groups) and snapshot.chosen
        for uuid in self.seen_s.keys() & set(snapshot.absent):
            self._miss(uuid)
        if self.chosen:
            self.unasked.clear()
            self._recall(snapshot, options)
            # Whoever may have been granted something may have it still: its lease is counted from now on.
            free = (uuid for uuid in self.group_of if not self.kept_out((uuid,)))
            self.granted_s.update(dict.fromkeys(free, self.since_s))
        self.restraints = Restraints(dict(snapshot.frozen), dict(snapshot.blocked))

    def _recall(self, snapshot: Snapshot, options: Options) -> None:
        by_name = set(snapshot.promoted)
        if not snapshot.held:
            by_name |= {name for name in self.sizes if in_holdout(options.cluster, name, options.holdout_ratio)}
        self.held |= {uuid for uuid, name in self.group_of.items() if name in by_name}
        self.held_groups = {self.group_of[uuid] for uuid in self.held & self.group_of.keys()}  # absent ones count too
