"""From a node's state to its envelope: gathers the facts, lets the policy arbitrate, writes the draft down.

A draft has no epoch, no number and no signature yet: commands_out adds them when it commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import msgspec

from models.policy.arbiter import Facts, Grant, decide
from models.policy.devices import device
from models.policy.holdout import in_canary
from models.policy.strategies import POLICY_VERSION, Strategy
from streams.contract.records import BrakeColumns, EngineReading, EnvelopeColumns, LatencyTarget, PowerDesired
from streams.jobs.actuation_intents import IntentBook
from streams.jobs.actuation_latency import TRAINING, LatencyPools, Pool
from streams.jobs.actuation_ranks import RankPaces
from streams.jobs.actuation_state import NodeState, Options, PartitionState


class Orders(Protocol):
    """What the slow step last said, as far as it bears on an envelope."""

    def within(self, pool: Pool | None) -> tuple[Strategy, float, str]: ...

    def row(self, uuid: str) -> tuple[float | None, str]: ...

    def pid_w(self, uuid: str) -> float | None: ...

    def brake(self, node: NodeState) -> BrakeColumns | None: ...


@dataclass(frozen=True, slots=True)
class NoOrders:
    """Before anything was said: the strategy as it is."""

    strategy: Strategy

    def within(self, pool: Pool | None) -> tuple[Strategy, float, str]:
        return self.strategy, 1.0, ""

    def row(self, uuid: str) -> tuple[float | None, str]:
        return None, ""

    def pid_w(self, uuid: str) -> float | None:
        return None

    def brake(self, node: NodeState) -> BrakeColumns | None:
        return None


@dataclass(slots=True)
class Decider:
    """Everything that decisions draw on besides the node itself."""

    options: Options
    strategy: Strategy
    pools: LatencyPools
    book: IntentBook
    paces: RankPaces = field(default_factory=RankPaces)
    orders: Orders = field(init=False)

    def __post_init__(self) -> None:
        self.orders = NoOrders(self.strategy)

    def draft(self, part: PartitionState, node: NodeState, now_ns: int) -> PowerDesired:
        """The envelope for all GPUs of a node."""
        engines = {uuid: engine for engine in node.engines for uuid in engine.gpu_uuid}
        facts = [self.facts(part, node, i, engines.get(uuid), now_ns) for i, uuid in enumerate(node.uuid)]
        bounds = [self.orders.within(pool_of(engines.get(uuid))) for uuid in node.uuid]
        grants = [_granted(one, bound) for one, bound in zip(facts, bounds, strict=True)]
        brake = self.orders.brake(node)
        return PowerDesired(
            cluster=self.options.cluster,
            node=node.node,
            epoch=0,
            seq=0,
            issued_at_ns=now_ns,
            sample_ts_ns=node.window_end_ns,
            ttl_ms=self.options.ttl_ms,
            # A breaker's ceiling must outlive its lease; only nodes whose owner said so hold it (breaker_protected).
            on_expiry=self.options.on_expiry if brake is None else "hold",
            mode=self.options.mode,
            strategy=self.strategy.name,
            policy_version=POLICY_VERSION,
            gpu=_columns(node.uuid, facts, grants),
            reason=_summary(self.strategy, grants),
            targets=self._targets(node, facts, now_ns),
            cause=self._causes(part, node, now_ns),
            propensity=min((propensity for _, propensity, _ in bounds), default=1.0),
            brake=brake,
        )

    def facts(
        self, part: PartitionState, node: NodeState, index: int, engine: EngineReading | None, now_ns: int
    ) -> Facts:
        uuid = node.uuid[index]
        block, freeze = part.restraints.blocked.get(uuid), part.restraints.frozen.get(uuid)
        pause, cap, budget = (
            self.book.pause(node.node, now_ns),
            self.book.cap(uuid, now_ns),
            self.book.budget(node.node, now_ns),
        )
        row_w, row = self.orders.row(uuid)
        group = part.group_of.get(uuid, uuid)
        canary = self.options.mode != "canary" or in_canary(self.options.cluster, group, self.options.canary_ratio)
        return Facts(
            device=device(node.name[index] if node.name else None, _reported(node, index)),
            engine=part.engine_of(uuid),
            holdout=part.held_out(uuid, self.options),
            guest=uuid not in part.held and part.kept_out((uuid,)),
            canary=canary,
            blocked=None if block is None else block.text,
            frozen=None if freeze is None or now_ns >= freeze.until_ns else freeze.text,
            paused=None if pause is None else f"Paused by {pause.actor}: {pause.reason or 'no reason given'}.",
            cap_w=None if cap is None else cap.max_power_w,
            cap_reason="" if cap is None else f"{cap.reason or 'no reason given'} ({cap.actor})",
            latency=self._latency(part.engine_of(uuid), engine, now_ns),
            training=engine is not None and engine.kind == TRAINING,
            budget_w=None if budget is None or budget.max_power_w is None else budget.max_power_w / len(node.uuid),
            pid_w=self.orders.pid_w(uuid),
            row_w=row_w,
            row=row,
        )

    def _latency(self, name: str | None, engine: EngineReading | None, now_ns: int) -> str | None:
        if engine is not None:
            return self.pools.obstacle(engine, now_ns)
        if name is not None:
            return f"Engine {name} has fallen silent, so its latency is unknown and the GPU stays at default."
        return None  # no engine at all: clocks are left alone anyhow, only the ceiling remains

    def _targets(self, node: NodeState, facts: Sequence[Facts], now_ns: int) -> tuple[LatencyTarget, ...]:
        held = {uuid for uuid, one in zip(node.uuid, facts, strict=True) if one.holdout}
        return tuple(
            LatencyTarget(engine=engine.engine)
            if held & set(engine.gpu_uuid)
            else self.paces.target(now_ns / 1e9, engine)
            if engine.kind == TRAINING
            else self.pools.targets(engine)
            for engine in node.engines
        )

    def _causes(self, part: PartitionState, node: NodeState, now_ns: int) -> tuple[str, ...]:
        freezes = (part.restraints.frozen.get(uuid) for uuid in node.uuid)
        verdicts = [f.verdict_id for f in freezes if f is not None and now_ns < f.until_ns]
        words = [self.book.pause(node.node, now_ns), self.book.budget(node.node, now_ns)]
        words += [self.book.cap(uuid, now_ns) for uuid in node.uuid]
        return tuple(dict.fromkeys([*verdicts, *(w.intent_id for w in words if w is not None)]))


def pool_of(engine: EngineReading | None) -> Pool | None:
    return None if engine is None else Pool(engine.stack, engine.workload)


def _granted(facts: Facts, bound: tuple[Strategy, float, str]) -> Grant:
    own, _, why = bound
    grant = decide(facts, own)
    return replace(grant, reason=f"{grant.reason} {why}") if why and grant.layer == "energy" else grant


def _reported(node: NodeState, index: int) -> dict[str, float | None]:
    columns = {} if node.device is None else msgspec.structs.asdict(node.device)
    return {name: column[index] for name, column in columns.items() if column is not None}


def _columns(uuids: tuple[str, ...], facts: Sequence[Facts], grants: Sequence[Grant]) -> EnvelopeColumns:
    return EnvelopeColumns(
        uuid=uuids,
        min_sm_mhz=tuple(g.min_sm_mhz for g in grants),
        max_sm_mhz=tuple(g.max_sm_mhz for g in grants),
        max_power_w=tuple(g.max_power_w for g in grants),
        engine=tuple(f.engine for f in facts),
        holdout=tuple(f.holdout for f in facts),
        reason=tuple(g.reason for g in grants),
    )


def _summary(strategy: Strategy, grants: Sequence[Grant]) -> str:
    given = sum(not g.empty for g in grants)
    if given:
        return f"Strategy {strategy.name}: bounds granted to {given} of {len(grants)} GPUs."
    reasons = [g.reason for g in grants]
    common = max(dict.fromkeys(reasons), key=reasons.count) if reasons else "the node reports no GPU."
    return f"Nothing is granted: {common}"
