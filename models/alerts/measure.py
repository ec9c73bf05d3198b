"""What the rules measure on one node at one window end. Values in, findings out; unknown stays unknown.

Watts, joules and ratios are those of the features; a value that a rule cannot know gives a finding with value None,
which neither confirms nor resolves anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from models.alerts.life import Finding, Quality
from models.alerts.rule import Rule

Column = Sequence[float | None]
WINDOW_NS = 60 * 10**9  # of the features
WINDOW_S = 60.0
NOBODY_S = 3.0  # the shortest silence of all nodes that counts as one


@dataclass(frozen=True, slots=True)
class Engine:
    """A serving engine and its GPUs."""

    name: str
    stack: str
    workload: str
    gpu_uuid: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """One node's features at a window end."""

    node: str
    ts_ns: int
    quality: Quality
    uuid: Sequence[str]
    features: Mapping[str, Column]
    limit_default_w: Column | None = None
    engines: Sequence[Engine] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    window_ns: int = WINDOW_NS  # what its means are over

    def column(self, name: str) -> Column:
        return self.features.get(name) or (None,) * len(self.uuid)


def _finding(
    node: Node, subject: str, value: float | None, evidence: dict[str, float | None], *, gpu_uuid: str | None = None
) -> Finding:
    return Finding(
        subject=subject,
        ts_ns=node.ts_ns,
        value=value,
        evidence=evidence,
        node=node.node,
        gpu_uuid=gpu_uuid,
        quality=node.quality,
        window_start_ns=node.ts_ns - node.window_ns,
    )


def power(rule: Rule, node: Node) -> Finding:
    """Mean power of the node's GPUs: in watts, or (relative_to_limit = 1) as a share of their default limits.

    GPUs whose power or limit is unknown are left out of both sides, and their number is part of the evidence.
    """
    watts = node.column("power_w_mean_60s")
    relative = rule.number("relative_to_limit") != 0.0
    limits: Column = node.limit_default_w or (None,) * len(watts)
    pairs = [(w, limit) for w, limit in zip(watts, limits, strict=False) if w is not None]
    if relative:
        pairs = [(w, limit) for w, limit in pairs if limit is not None and limit > 0.0]
    total = sum(w for w, _ in pairs)
    allowed = sum(limit for _, limit in pairs if limit is not None) or None
    value = None if not pairs else total / allowed if relative and allowed else total
    evidence = {"power_w": total if pairs else None, "limit_default_w": allowed, "gpus": float(len(pairs))}
    return _finding(node, node.node, value, {**evidence, "gpus_unknown": float(len(watts) - len(pairs))})


def idle(rule: Rule, node: Node) -> Finding:
    """Watts above deep idle of those GPUs of the node that do nothing: the sum over GPUs beyond the bound."""
    waste = node.column("waste_w")
    known = [(w, uuid) for w, uuid in zip(waste, node.uuid, strict=False) if w is not None]
    if not known:
        return _finding(node, node.node, None, {})
    worst_w, worst = max(known)
    leaking = [w for w, _ in known if rule.over(w)]
    evidence: dict[str, float | None] = {"gpus_leaking": float(len(leaking)), "waste_w_sum": sum(leaking)}
    return _finding(node, node.node, worst_w, evidence, gpu_uuid=worst)


def j_per_token(node: Node, engine: Engine) -> float | None:
    """Joules of an engine per token: the mean over its GPUs' shares; None when one of them is unknown."""
    column = dict(zip(node.uuid, node.column("j_per_token_60s"), strict=False))
    values = [column.get(uuid) for uuid in engine.gpu_uuid]
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def efficiency(rule: Rule, node: Node, engine: Engine, peers: Sequence[float]) -> Finding:
    """Joules per token of one engine: as a multiple of the median of its stack (relative_to_stack = 1), or as it is.

    `peers` are the newest values of all engines of the same stack and workload, this one included.
    """
    own = j_per_token(node, engine)
    middle = median(peers) if len(peers) >= rule.number("least_engines") else None
    relative = rule.number("relative_to_stack") != 0.0
    value = own if not relative else own / middle if own is not None and middle else None
    evidence: dict[str, float | None] = {"j_per_token": own, "stack_median_j_per_token": middle}
    found = _finding(node, engine.name, value, {**evidence, "engines": float(len(peers))})
    found.labels.update(engine=engine.name, stack=engine.stack, workload=engine.workload)
    return found


def sensors(
    rule: Rule, *, node: str, ts_ns: int, quality: Quality, gpu_w: Mapping[str, float], domain_w: Mapping[str, float]
) -> list[Finding]:
    """Each GPU that two sensors measure: the gap between them as a share of the larger; small gaps in watts are none.

    `gpu_w` is the device's own word, `domain_w` the second sensor's (Redfish, a board), both by GPU.
    """
    out = []
    for uuid in sorted(gpu_w.keys() & domain_w.keys()):
        own, other = gpu_w[uuid], domain_w[uuid]
        gap_w, larger = abs(own - other), max(abs(own), abs(other))
        value = gap_w / larger if larger > 0.0 and gap_w >= rule.number("least_w") else 0.0
        evidence: dict[str, float | None] = {"gpu_power_w": own, "second_power_w": other, "gap_w": gap_w}
        out.append(
            Finding(uuid, ts_ns, value, evidence, node=node, gpu_uuid=uuid, quality=quality, window_start_ns=ts_ns)
        )
    return out


def silence(
    rule: Rule, *, seen_ns: Mapping[str, int], now_ns: int, since_ns: int, cluster: str, simulated: frozenset[str]
) -> list[Finding]:
    """Seconds since each node was heard; when nobody at all is heard of several nodes, that is one finding of the
    cluster: the way to them has failed, not each of them. `since_ns` = when listening began: earlier counts for nobody.
    """
    ages_s = {node: (now_ns - max(at, since_ns)) / 1e9 for node, at in seen_ns.items()}
    newest_s = min(ages_s.values(), default=0.0)
    bound_s = rule.threshold or 0.0
    # Nodes fall silent a second or two apart when the way to all of them fails: decide well before the first is over.
    nobody = len(ages_s) > 1 and newest_s > max(NOBODY_S, bound_s / 4.0)
    out = []
    for node in sorted(ages_s):
        # While nobody is heard nothing is known of a single node, and after a restart nothing of one that has not had
        # the time to speak: its own alert neither begins nor ends.
        unknown = nobody or (seen_ns[node] < since_ns and not rule.over(ages_s[node]))
        value = None if unknown else ages_s[node]
        quality: Quality = "simulated" if node in simulated else "measured"
        start = max(seen_ns[node], since_ns)
        out.append(Finding(node, now_ns, value, {"silent_s": value}, node=node, quality=quality, window_start_ns=start))
    if len(ages_s) > 1:
        heard = any(at >= since_ns for at in seen_ns.values())
        out.append(
            Finding(
                f"cluster {cluster}",
                now_ns,
                newest_s if heard or rule.over(newest_s) else None,
                {"silent_s": newest_s, "nodes": float(len(ages_s))},
                quality="simulated" if simulated >= ages_s.keys() else "measured",
                window_start_ns=now_ns - int(newest_s * 1e9),
            )
        )
    return out
