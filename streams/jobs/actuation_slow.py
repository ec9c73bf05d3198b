"""The slow step: every 5-60 s one plan of replicas, rows, set points and the PID, written down where it can be read.

In observe and recommend the plan is only written; what an envelope can carry (row ceilings, set points, the PID's
limit) is taken up by the decider when the mode grants. Replicas are recommended in every mode: no command starts or
stops one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from models.policy.arbiter import Device
from models.policy.devices import device
from models.policy.pid import KIND, BatchBounds, PidSettings, PowerPid
from models.policy.strategies import Strategy
from models.policy.tariff import CARBON, PRICES, Series, Tariff, parse
from streams.contract.records import BrakeColumns, NodeFeatures, PowerApplied
from streams.errors import StreamsError
from streams.jobs.actuation_handover import Plans
from streams.jobs.actuation_latency import LatencyPools, Pool
from streams.jobs.actuation_learning import Learning
from streams.jobs.actuation_load import LoadBook, Side
from streams.jobs.actuation_replicas import LEASE_STEPS, ReplicaOptions, ReplicaPlans
from streams.jobs.actuation_rows import FactsOf, RowOrders, rows_of
from streams.jobs.actuation_state import NodeState, Options, PartitionState
from streams.jobs.base import JobContext
from streams.plan import MEMORY, MEMORY_VERSION, PLAN, PLAN_VERSION

POWER: Final = ("power_w_last", "power_w_mean_60s")
ROW_S: Final = 5.0  # an oversubscribed row leans on its brakes, so it is looked at this often
MEMORY_S: Final = 600.0
MOST_NODES: Final = 500  # named at once
PARKED_BYTES: Final = 100_000
MOST_BYTES: Final = 400_000  # of each half of a message; brokers take 1 MB
T = TypeVar("T")


class Memory(msgspec.Struct, kw_only=True):
    """What outlives the process and takes days to see again."""

    rates: dict[str, dict[str, Any]] = {}
    learning: dict[str, list[list[Any]]] = {}
    parked: dict[str, list[list[Any]]] = {}


class SlowStep:
    """Everything slow of one worker. Implements actuation_decide.Orders.

    Args:
        partitions: how many the cluster has, asked once and only where a row's budget must be shared.
        plans: the newest plans of the cluster's workers, asked after partitions have moved.
    """

    def __init__(
        self,
        ctx: JobContext,
        options: Options,
        strategy: Strategy,
        latency: LatencyPools,
        partitions: Callable[[], int],
        plans: Plans,
    ) -> None:
        s = ctx.settings
        self._ctx, self._options, self._strategy, self._partitions = ctx, options, strategy, partitions
        real = options.mode in ("canary", "on")
        self._loads = LoadBook()
        chosen = ReplicaOptions(s.min_warm, s.replicas_max, BatchBounds(s.batch_min, s.batch_max))
        self._replicas = ReplicaPlans(strategy, chosen, latency)
        self._learning = Learning(strategy, options.mode, latency) if strategy.name == "ml-driven" else None
        self._rows = RowOrders(
            rows_of(s.row_budget_w, s.rows_file),
            floor_w=s.power_floor_w,
            ceiling_w=s.power_ceiling_w,
            assumed_s=None if real else options.ttl_ms / 1e3,
            handover_s=s.session_s
            + s.rebalance_s
            + max(options.ttl_ms / 1e3, options.oldest_sample_s)
            + 2.0 * s.slow_interval_s,
            plans=plans,
        )
        self._tariff = Tariff(
            _series("EO_PRICE_FILE", s.price_file, tuple(PRICES)),
            _series("EO_CARBON_FILE", s.carbon_file, (CARBON,)),
            s.carbon_price_per_kg,
        )
        self._pids: dict[str, PowerPid] = {}
        self._at_s: float | None = None
        self._row_at_s = self._memory_at_s = 0.0
        self._moved = False  # partitions came or went: rows are due at once
        self._stepped: frozenset[int] = frozenset()
        self._count: int | None = None
        self._remembered, self._recalled = 0, False
        self._parked: dict[str, list[list[Any]]] = {}
        self._last_wall_s: float | None = None
        self.plan: dict[str, Any] | None = None

    # --- what comes in ---

    def take(self, node: NodeState, record: NodeFeatures, sides: Sequence[Side]) -> None:
        """A node's newest features: power by GPU, counters by engine; `sides` says what each engine is measured for."""
        columns = next((record.features[name] for name in POWER if name in record.features), ())
        node.power_w = tuple(w if w is None or (isfinite(w) and 0.0 <= w < 1e5) else None for w in columns)
        watts = dict(zip(record.uuid, node.power_w, strict=False))
        seen_s = min(record.window_end_ns, self._ctx.wall_ns()) / 1e9
        for engine, side in zip(record.engines, sides, strict=True):
            mine = [watts.get(uuid) for uuid in engine.gpu_uuid]
            self._loads.take(node.node, engine, seen_s, side=side, watts=mine, quality=record.quality)

    def answered(self, ack: PowerApplied) -> None:
        if self._options.mode in ("canary", "on"):
            self._rows.answered(ack)

    def recover(self, part: PartitionState) -> None:
        """A partition that is ours now, with what its GPUs were granted."""
        self._rows.recover(self._ctx.wall_ns() / 1e9, part.ceilings, part.unsettled, part.outside)
        self._moved = True

    def release(self, part: PartitionState) -> None:
        """A partition that is not ours any more; its snapshot has what its GPUs were granted."""
        self._rows.release(part.nodes.keys() | part.ceilings.keys() | part.outside.keys())
        self._moved = True

    def recall(self, partition: int) -> None:
        """Once, before the first step: what took days to see."""
        if self._recalled:
            return
        self._recalled = True
        saved = self._ctx.state.load(MEMORY, partition)
        if saved is None:
            return
        try:
            memory = msgspec.json.decode(saved.data, type=Memory)
        except msgspec.MsgspecError as error:
            self._ctx.log.warning("the slow step's memory is not readable (%s); starting without", error)
            return
        self._replicas.recall(memory.rates, memory.parked)
        if self._learning is not None:
            self._learning.recall(memory.learning)

    def note(self, parts: Mapping[int, PartitionState], *, always: bool = False) -> None:
        """Leaves what is granted with each partition, whose snapshot is then due: a new process must know it."""
        if self._rows.rows and (self._rows.changed or always):
            self._rows.changed = self._rows.changed and always
            now_s = self._ctx.wall_ns() / 1e9
            for part in parts.values():
                nodes = part.nodes.keys() | part.ceilings.keys() | part.outside.keys()
                part.ceilings, part.unsettled = self._rows.granted(nodes), self._rows.unsettled(now_s, nodes)
                part.outside = self._rows.outside(nodes)
                part.dirty = True

    # --- the step ---

    def step(self, parts: Mapping[int, PartitionState], facts_of: FactsOf) -> set[str]:
        """Does what is due; returns the nodes whose envelopes are in a hurry."""
        now_s = self._ctx.monotonic()
        if self._at_s is None:
            self._at_s = self._row_at_s = self._memory_at_s = now_s
        if not parts:
            return set()
        interval, hurried = self._ctx.settings.slow_interval_s, set[str]()
        whole = now_s - self._at_s >= interval
        self._moved |= parts.keys() != self._stepped
        often = self._rows.oversubscribed and now_s - self._row_at_s >= ROW_S
        if self._rows.rows and (whole or often or self._moved):
            self._row_at_s, self._moved, self._stepped = now_s, False, frozenset(parts)
            if not whole:
                hurried |= self._step_rows(parts, facts_of, {})
        if whole:
            self._at_s = now_s
            hurried |= self._whole(parts, facts_of)
        return hurried

    def _whole(self, parts: Mapping[int, PartitionState], facts_of: FactsOf) -> set[str]:
        wall_s = self._ctx.wall_ns() / 1e9
        span = self._ctx.settings.slow_interval_s if self._last_wall_s is None else wall_s - self._last_wall_s
        self._last_wall_s = wall_s
        loads = self._loads.step(wall_s, fresh_s=self._options.oldest_sample_s)
        tariff = self._tariff.now(wall_s)
        lease_s = LEASE_STEPS * self._ctx.settings.slow_interval_s
        pools = [
            self._replicas.step(wall_s, max(span, 0.0), pool, load, tariff, lease_s=lease_s)
            for pool, load in sorted(loads.items())
        ]
        changed: set[Pool] = set()
        if self._learning is not None:
            changed = {pool for pool, load in loads.items() if self._learning.step(wall_s, pool, load)}
        hurried = self._step_rows(parts, facts_of, loads)
        self._step_pid(parts, wall_s)
        hurried |= {
            node.node
            for part in parts.values()
            for node in part.nodes.values()
            if any(Pool(engine.stack, engine.workload) in changed for engine in node.engines)
        }
        self._publish(parts, pools, self._replicas.gpus_off(loads))
        return hurried

    def _step_rows(self, parts: Mapping[int, PartitionState], facts_of: FactsOf, loads: Mapping[Pool, Any]) -> set[str]:
        if not self._rows.rows:
            return set()
        now_ns = self._ctx.wall_ns()
        fresh_ns = now_ns - int(self._options.oldest_sample_s * 1e9)
        try:
            self._count = self._count or max(1, self._partitions())
        except StreamsError as error:
            self._ctx.log.warning("rows wait, nothing is granted for them: %s", error)
            return set()
        return self._rows.step(now_ns / 1e9, parts, loads, facts_of, fresh_ns=fresh_ns, partitions=self._count)

    def _step_pid(self, parts: Mapping[int, PartitionState], now_s: float) -> None:
        target = self._ctx.settings.power_target_w
        if target is None:
            return
        fresh_ns = self._ctx.wall_ns() - int(self._options.oldest_sample_s * 1e9)
        present: set[str] = set()
        for part in parts.values():
            for node in part.nodes.values():
                present.update(node.uuid)
                if node.window_end_ns >= fresh_ns:
                    for index, uuid in enumerate(node.uuid):
                        watts = node.power_w[index] if index < len(node.power_w) else None
                        if not part.held_out(uuid, self._options):
                            self._pid(uuid, node, index, target).step(now_s, watts)
        for uuid in self._pids.keys() - present:
            del self._pids[uuid]

    def _pid(self, uuid: str, node: NodeState, index: int, target_w: float) -> PowerPid:
        if uuid not in self._pids:
            self._pids[uuid] = PowerPid(pid_settings(self._ctx.settings, _device(node, index)), target_w)
        return self._pids[uuid]

    # --- what envelopes ask ---

    def within(self, pool: Pool | None) -> tuple[Strategy, float, str]:
        return (self._strategy, 1.0, "") if self._learning is None else self._learning.within(pool)

    def row(self, uuid: str) -> tuple[float | None, str]:
        return self._rows.ceiling(uuid), self._rows.row_of.get(uuid, "")

    def pid_w(self, uuid: str) -> float | None:
        pid = self._pids.get(uuid)
        return None if pid is None else pid.limit_w

    @property
    def waits(self) -> bool:
        """Partitions have come and their rows are not planned yet: envelopes without a brake table would release."""
        return self._moved and bool(self._rows.rows)

    def brake(self, node: NodeState) -> BrakeColumns | None:
        return self._rows.brake(node)

    # --- what is written down ---

    def _publish(self, parts: Mapping[int, PartitionState], pools: list[dict[str, Any]], off: set[str]) -> None:
        s, now_ns = self._ctx.settings, self._ctx.wall_ns()
        limits = [pid.limit_w for pid in self._pids.values()]
        tariff = self._tariff.now(now_ns / 1e9)
        learning = [] if self._learning is None else self._learning.told()
        shown, more = fitting(pools, MOST_BYTES), fitting(learning, MOST_BYTES)
        self.plan = {
            "cluster": self._options.cluster,
            "ts_ns": now_ns,
            "interval_s": s.slow_interval_s,
            "mode": self._options.mode,
            "strategy": self._strategy.name,
            "partitions": sorted(parts),
            "pools": shown,
            "nodes_off": _nodes_off(parts, off),
            "rows": self._rows.told(),
            "learning": more,
            "left_out": len(pools) - len(shown) + len(learning) - len(more),
            "pid": None
            if s.power_target_w is None
            else {
                "kind": KIND,
                "target_w": s.power_target_w,
                "gpus": len(limits),
                "limit_w_mean": sum(limits) / len(limits) if limits else None,
            },
            "tariff": {
                "price_per_kwh": tariff.price_per_kwh,
                "currency": tariff.currency,
                "g_per_kwh": tariff.g_per_kwh,
                "weight": tariff.weight,
            },
        }
        self._ctx.state.save(PLAN, min(parts), self.plan, {}, PLAN_VERSION)
        self._remember(min(parts))

    def _remember(self, partition: int) -> None:
        rows = 0 if self._learning is None else self._learning.rows
        parked = self._replicas.parked()
        same = rows == self._remembered and parked == self._parked
        if self._ctx.monotonic() - self._memory_at_s < MEMORY_S and same:
            return
        self._memory_at_s, self._remembered, self._parked = self._ctx.monotonic(), rows, parked
        learning = {} if self._learning is None else self._learning.remember()
        memory = {
            "rates": dict(fitting(self._replicas.remember().items(), MOST_BYTES)),
            "learning": dict(fitting(learning.items(), MOST_BYTES)),
            "parked": dict(fitting(parked.items(), PARKED_BYTES)),
        }
        self._ctx.state.save(MEMORY, partition, memory, {}, MEMORY_VERSION)


def _nodes_off(parts: Mapping[int, PartitionState], off: set[str]) -> list[str]:
    """Nodes all of whose GPUs belong to engines that may be off: nothing else is known to run there."""
    nodes = (node for part in parts.values() for node in part.nodes.values())
    return sorted(node.node for node in nodes if node.uuid and off.issuperset(node.uuid))[:MOST_NODES]


def fitting(parts: Iterable[T], most_bytes: int) -> list[T]:
    """The first parts that fit together: a message above the broker's limit would end the job."""
    kept: list[T] = []
    for part in parts:
        most_bytes -= len(msgspec.json.encode(part)) + 1
        if most_bytes < 0:
            break
        kept.append(part)
    return kept


def pid_settings(settings: Any, bounds: Device) -> PidSettings:
    """The brief's numbers, inside the device's own where these are known."""
    plain = PidSettings()
    low = settings.power_floor_w or bounds.limit_min_w or plain.floor_w
    high = settings.power_ceiling_w or bounds.limit_default_w or plain.ceiling_w
    return PidSettings(
        kp=settings.pid_kp,
        ki=settings.pid_ki,
        kd=settings.pid_kd,
        floor_w=min(low, high),
        ceiling_w=high,
        interval_s=settings.slow_interval_s * 0.9,
    )


def _device(node: NodeState, index: int) -> Device:
    columns = {} if node.device is None else msgspec.structs.asdict(node.device)
    reported = {name: column[index] for name, column in columns.items() if column is not None}
    return device(node.name[index] if node.name else None, reported)


def _series(name: str, path: Path | None, units: tuple[str, ...]) -> Series | None:
    if path is None:
        return None
    try:
        return parse(path.read_text(encoding="utf-8"), units)
    except (OSError, ValueError) as error:
        raise StreamsError(f"{name} {path}: {error}") from error
