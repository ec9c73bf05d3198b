"""Rows under a breaker: which GPUs belong to which, in which class, and what each may draw at most.

The row is kept by the sum of ceilings (models.policy.row). GPUs that no ceiling reaches count with their own limit. A
worker that owns only some partitions keeps its share of each budget, so that workers need not talk to each other; when
partitions move it comes down at once and goes up only when the others surely have (actuation_handover).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from math import floor, isfinite
from pathlib import Path
from typing import Any, Final

from models.control.profiles import profile_for
from models.policy.arbiter import Facts, outside_rows
from models.policy.budget import Curve, Member, Priority
from models.policy.outlook import outlook
from models.policy.row import FORGET_S, RowBook, RowPlan, RowSettings
from streams.contract.records import BrakeColumns, EngineReading, PowerApplied
from streams.errors import StreamsError
from streams.jobs.actuation_handover import Handover, Plans
from streams.jobs.actuation_latency import Pool
from streams.jobs.actuation_load import PoolLoad
from streams.jobs.actuation_state import NodeState, PartitionState

UNKNOWN_LIMIT_W: Final = 700.0  # a GPU that does not say its limit counts as the largest common board
CURVE_POINTS: Final = 11
KEYS: Final = frozenset({"name", "budget_w", "nodes", "overhead_w", "oversubscribe", "high", "low"})


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its settings, the nodes on it and the workloads, engines or nodes of its outer classes, as patterns."""

    settings: RowSettings
    nodes: tuple[str, ...] = ("*",)
    high: tuple[str, ...] = ()
    low: tuple[str, ...] = ()

    def priority(self, *names: str | None) -> Priority:
        """By the first name that a pattern fits: high before low, and normal for the rest."""
        if any(_fits(self.high, name) for name in names):
            return "high"
        return "low" if any(_fits(self.low, name) for name in names) else "normal"


def _fits(patterns: tuple[str, ...], name: str | None) -> bool:
    return name is not None and any(fnmatchcase(name, one) for one in patterns)


def rows_of(budget_w: float | None, path: Path | None) -> tuple[Row, ...]:
    """The rows of the settings. Raises StreamsError that names the file, the key and what it should be."""
    if budget_w is not None:
        return (Row(RowSettings("row", budget_w)),)
    if path is None:
        return ()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("row", [])
        found = tuple(_row(table) for table in tables)
        if not found:
            raise ValueError("it has no [[row]]")
        if len({row.settings.name for row in found}) != len(found):
            raise ValueError("two rows have the same name; name each once")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise StreamsError(f"EO_ROWS_FILE {path}: {error}; docs/policy.md shows its form") from error
    return found


def _row(table: Mapping[str, Any]) -> Row:
    if unknown := set(table) - KEYS:
        raise ValueError(f"a row has {', '.join(sorted(unknown))}; it may have {', '.join(sorted(KEYS))}")
    name = table.get("name")
    if not isinstance(name, str) or not name:
        raise ValueError("a row has no name")
    numbers = {
        "budget_w": _number(table, name, "budget_w", None, 1.0, 1e9),
        "overhead_w": _number(table, name, "overhead_w", 0.0, 0.0, 1e5),
        "oversubscribe": _number(table, name, "oversubscribe", 1.0, 1.0, 2.0),
    }
    lists = {key: _patterns(table, name, key) for key in ("nodes", "high", "low") if key in table}
    return Row(RowSettings(name, **numbers), **lists)


def _number(table: Mapping[str, Any], row: str, key: str, default: float | None, low: float, high: float) -> float:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{key} of row {row} is {value!r}; give a number from {low:g} to {high:g}")
    return float(value)


def _patterns(table: Mapping[str, Any], row: str, key: str) -> tuple[str, ...]:
    value = table[key]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError(f'{key} of row {row} is {value!r}; give a list of patterns, e.g. ["rack7-*"]')
    return tuple(value)


FactsOf = Callable[[PartitionState, NodeState, int, EngineReading | None], Facts]


@dataclass(slots=True)
class _Gathered:
    members: list[Member] = field(default_factory=list)
    gone: dict[str, float] = field(default_factory=dict)  # GPUs at their own limit
    outside_w: float = 0.0
    drawn_w: float = 0.0
    drawn_known: bool = True
    unknown_limits: int = 0


class RowOrders:
    """All rows as this worker keeps them.

    Args:
        floor_w, ceiling_w: the operator's bounds of a GPU's ceiling; None = the device's own.
        assumed_s: see RowBook.
        handover_s, plans: see Handover.
    """

    def __init__(
        self,
        rows: tuple[Row, ...],
        *,
        floor_w: float | None,
        ceiling_w: float | None,
        assumed_s: float | None,
        handover_s: float,
        plans: Plans,
    ) -> None:
        self.rows = rows
        self._floor_w, self._ceiling_w = floor_w, ceiling_w
        self._books = {row.settings.name: RowBook(row.settings, assumed_s=assumed_s) for row in rows}
        self.plans: dict[str, RowPlan] = {}
        self.ceiling_w: dict[str, float] = {}  # by GPU
        self.row_of: dict[str, str] = {}
        self._node_of: dict[str, str] = {}
        self._granted: dict[str, float] = {}  # of silent members too: they come back under what they had
        self.changed = False
        self.handover = Handover(handover_s, plans)
        self._share = 1.0
        self._outside: dict[str, dict[str, tuple[float, float]]] = {row.settings.name: {} for row in rows}

    @property
    def oversubscribed(self) -> bool:
        return any(row.settings.oversubscribe > 1.0 for row in self.rows)

    def granted(self, nodes: Collection[str]) -> dict[str, dict[str, float]]:
        """What the GPUs of these nodes were granted, to be remembered with their partition."""
        return self._by_node(nodes, [book.granted() for book in self._books.values()])

    def unsettled(self, now_s: float, nodes: Collection[str]) -> dict[str, dict[str, float]]:
        """Higher limits that may still be in force on them, the same way."""
        return self._by_node(nodes, [book.unsettled(now_s) for book in self._books.values()])

    def outside(self, nodes: Collection[str]) -> dict[str, dict[str, float]]:
        """GPUs of these nodes that no ceiling reaches, with their own limit, the same way."""
        return self._by_node(nodes, [{u: w for u, (w, _) in known.items()} for known in self._outside.values()])

    def _by_node(self, nodes: Collection[str], books: list[dict[str, float]]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for watts_of in books:
            for uuid, watts in watts_of.items():
                if (node := self._node_of.get(uuid)) in nodes and node is not None:
                    found.setdefault(node, {})[uuid] = watts
        return found

    def release(self, nodes: Collection[str]) -> None:
        """Nodes of a partition that another worker takes over, with what was granted to them."""
        self.handover.released()
        gone = {uuid for uuid, node in self._node_of.items() if node in nodes}
        for row in self.rows:
            self._books[row.settings.name].release(gone)
            for uuid in gone & self._outside[row.settings.name].keys():
                del self._outside[row.settings.name][uuid]
        for known in (self.ceiling_w, self._granted, self.row_of, self._node_of):
            for uuid in gone & known.keys():
                del known[uuid]

    def recover(
        self,
        now_s: float,
        ceilings_w: Mapping[str, Mapping[str, float]],
        unsettled_w: Mapping[str, Mapping[str, float]],
        outside_w: Mapping[str, Mapping[str, float]],
    ) -> None:
        """What an earlier owner of a partition granted, by node and GPU: it may be in force."""
        for node, limits in outside_w.items():
            if (row := self._row(node)) is not None:
                self._node_of.update(dict.fromkeys(limits, node))
                self._outside[row.settings.name].update({u: (w, now_s) for u, w in limits.items() if 0.0 < w < 1e5})
        for node, granted in ceilings_w.items():
            if (row := self._row(node)) is not None:
                self._books[row.settings.name].recover(now_s, granted, unsettled_w.get(node))
                self._node_of.update(dict.fromkeys(granted, node))
                self._granted.update(self._books[row.settings.name].granted())
                self.row_of.update(dict.fromkeys(granted, row.settings.name))

    def answered(self, ack: PowerApplied) -> None:
        """A node's word on what is in force."""
        issued_s = None if ack.issued_at_ns is None else ack.issued_at_ns / 1e9
        for uuid, watts in zip(ack.gpu.uuid, ack.gpu.effective_limit_w, strict=True):
            for book in self._books.values():
                book.confirmed(uuid, watts, issued_s if ack.event == "command" else None)

    def step(
        self,
        now_s: float,
        parts: Mapping[int, PartitionState],
        loads: Mapping[Pool, PoolLoad],
        facts_of: FactsOf,
        *,
        fresh_ns: int,
        partitions: int,
    ) -> set[str]:
        """Every row anew, of so many partitions in all; returns nodes with a ceiling that went down: in a hurry."""
        in_force = {name: book.in_force_w(now_s) for name, book in self._books.items()}
        self.handover.observe(now_s, frozenset(parts), partitions, in_force)
        share = self._share = min(1.0, len(parts) / partitions)
        before, hurried = dict(self.ceiling_w), set[str]()
        self.ceiling_w, curves = {}, {pool: _curve(pool, load) for pool, load in loads.items()}
        nodes = list(_fresh(parts, fresh_ns))
        for row in self.rows:
            on_row = [(part, node) for part, node in nodes if self._row(node.node) is row]
            plan = self._plan(now_s, row, on_row, facts_of, curves, share=share)
            self.plans[row.settings.name] = plan
            for uuid, watts in plan.ceilings_w.items():
                self.ceiling_w[uuid], self.row_of[uuid] = watts, row.settings.name
            for _, node in on_row:
                if any(self.ceiling_w.get(u, 1e9) < before.get(u, 1e9) for u in node.uuid):
                    hurried.add(node.node)
        self._granted = {uuid: watts for book in self._books.values() for uuid, watts in book.granted().items()}
        self.changed = self.ceiling_w != before
        return hurried

    def ceiling(self, uuid: str) -> float | None:
        """What a GPU may draw at most; None where it is on no row or was not granted anything."""
        found = self.ceiling_w.get(uuid)
        return self._granted.get(uuid) if found is None else found

    def _row(self, node: str) -> Row | None:
        return next((row for row in self.rows if _fits(row.nodes, node)), None)

    def _plan(
        self,
        now_s: float,
        row: Row,
        nodes: list[tuple[PartitionState, NodeState]],
        facts_of: FactsOf,
        curves: Mapping[Pool, Curve],
        *,
        share: float,
    ) -> RowPlan:
        found = _Gathered()
        for part, node in nodes:
            engines = {uuid: engine for engine in node.engines for uuid in engine.gpu_uuid}
            for index, uuid in enumerate(node.uuid):
                engine = engines.get(uuid)
                self._gather(found, row, node, uuid, index, facts_of(part, node, index, engine), engine, curves)
        found.outside_w += self._silent_w(now_s, row, found, {node.node for _, node in nodes})
        book, whole_w = self._books[row.settings.name], row.settings.budget_w * share
        over = row.settings.oversubscribe
        budget_w = self.handover.budget_w(row.settings.name, whole_w, outside_w=found.outside_w, oversubscribe=over)
        book.settings = replace(row.settings, budget_w=budget_w)
        drawn = found.drawn_w + row.settings.overhead_w * len(nodes) if found.drawn_known and nodes else None
        plan = book.step(
            now_s,
            found.members,
            outside_w=found.outside_w,
            drawn_w=drawn,
            load_budget_w=whole_w,
            gone=found.gone,
        )
        ceilings = {
            m.name: _down(plan.ceilings_w[m.name], m.floor_w) for m in found.members if m.name in plan.ceilings_w
        }
        note = ""
        if found.unknown_limits:
            note = f" {found.unknown_limits} GPUs do not say their limits and count with {UNKNOWN_LIMIT_W:.0f} W each."
        if share < 1.0:
            note += f" This worker keeps {share:.0%} of the row, by its partitions."
        note += self.handover.note(now_s)
        return replace(plan, ceilings_w=ceilings, reason=plan.reason + note)

    def _gather(
        self,
        found: _Gathered,
        row: Row,
        node: NodeState,
        uuid: str,
        index: int,
        facts: Facts,
        engine: EngineReading | None,
        curves: Mapping[Pool, Curve],
    ) -> None:
        watts = node.power_w[index] if index < len(node.power_w) else None
        found.drawn_known &= watts is not None and isfinite(watts)
        found.drawn_w += watts or 0.0
        self._node_of[uuid] = node.node
        low, high = facts.device.limit_min_w, facts.device.limit_default_w
        if low is None or high is None or not 0.0 < low <= high or outside_rows(facts):
            found.unknown_limits += high is None
            found.gone[uuid] = UNKNOWN_LIMIT_W if high is None else high
            return
        if self.handover.active and not self._books[row.settings.name].holds(uuid):
            # An earlier owner may have granted it anything: it waits, and its own limit counts, until leases are over.
            if self.handover.leases_live:
                found.gone[uuid] = high
                return
            self.handover.admit(row.settings.name, uuid, high)
        wanted = high if self._ceiling_w is None else min(high, max(low, self._ceiling_w))
        least = low if self._floor_w is None else min(wanted, max(low, self._floor_w))
        pool = None if engine is None else Pool(engine.stack, engine.workload)
        names = (node.node, facts.engine, None if pool is None else pool.workload)
        curve = () if pool is None else curves.get(pool, ())
        found.members.append(Member(uuid, least, wanted, row.priority(*names), curve, found_w=high))

    def _silent_w(self, now_s: float, row: Row, found: _Gathered, present: set[str]) -> float:
        """Brings what is outside the row's reach up to date; watts of it, of nodes that have fallen silent too.

        A node without telemetry still draws: its GPUs at their own limit, its host; for as long as its ceilings count.
        """
        known, book = self._outside[row.settings.name], self._books[row.settings.name]
        known.update({uuid: (watts, now_s) for uuid, watts in found.gone.items()})
        for uuid in {m.name for m in found.members} | {u for u, (_, at) in known.items() if now_s - at > FORGET_S}:
            known.pop(uuid, None)
        nodes = present | {self._node_of[u] for u in (*known, *book.granted()) if u in self._node_of}
        return sum(watts for watts, _ in known.values()) + row.settings.overhead_w * len(nodes)

    def brake(self, node: NodeState) -> BrakeColumns | None:
        """The node's own rows of the brake table; None where its row has none or nothing was granted to it."""
        row = self._row(node.node)
        plan = None if row is None else self.plans.get(row.settings.name)
        if row is None or plan is None or not plan.brakes or all(self.ceiling(uuid) is None for uuid in node.uuid):
            return None
        return BrakeColumns(
            row=plan.name,
            # Of the whole row: a meter sees all of it, whatever share of it this worker keeps.
            budget_w=row.settings.budget_w,
            from_ratio=tuple(brake.from_ratio for brake in plan.brakes),
            max_power_w=tuple(
                tuple(_step(brake.ceilings_w.get(uuid), self.ceiling(uuid)) for uuid in node.uuid)
                for brake in plan.brakes
            ),
        )

    def told(self) -> list[dict[str, Any]]:
        """The rows as they are published."""
        return [
            {
                **{k: v for k, v in asdict(plan).items() if k not in ("ceilings_w", "brakes")},
                "share_w": row.settings.budget_w * self._share,
                "gpus": len(plan.ceilings_w),
                "granted_w": sum(plan.ceilings_w.values()),
            }
            for row in self.rows
            if (plan := self.plans.get(row.settings.name)) is not None
        ]


def _fresh(parts: Mapping[int, PartitionState], fresh_ns: int) -> Iterator[tuple[PartitionState, NodeState]]:
    for part in parts.values():
        for node in part.nodes.values():
            if node.window_end_ns >= fresh_ns:
                yield part, node


def _down(watts: float, least_w: float) -> float:
    """Whole watts, so that envelopes do not differ by noise; never above what was allotted."""
    return max(min(watts, least_w), float(floor(watts + 1e-6)))


def _step(watts: float | None, ceiling_w: float | None) -> float | None:
    if watts is None or ceiling_w is None:
        return None
    return float(floor(min(watts, ceiling_w) + 1e-6))


def _curve(pool: Pool, load: PoolLoad) -> Curve:
    """Latency of a whole request over the power limit, times the requests that feel it; empty where unknown."""
    profile = profile_for(pool.stack)
    if profile is None or load.load is None:
        return ()
    low, high = profile.device.limit_min_w, profile.device.limit_default_w
    grid = [low + (high - low) * k / (CURVE_POINTS - 1) for k in range(CURVE_POINTS)]
    running = max(load.load.running, 0.1)
    return tuple((watts, running * outlook(profile, 1.0, load.load, watts).e2e_ms) for watts in grid)
