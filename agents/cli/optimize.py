"""`eo optimize`: what a strategy would do for each group of GPUs, and, when asked, its power caps as signed words.

It reads the last minute of the topics and uses the API's own functions, so both say the same.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agents.cli import intents
from agents.cli.base import DONE, FAILED, REFUSED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.brokers import resolve_bootstrap
from agents.cli.intents import duration_s
from agents.cli.parser import name
from streams.contract.layout import Layout
from streams.contract.topics import DESIRED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agents.gateway.advise import Recommendation
    from agents.gateway.cluster import ClusterState
    from models.policy.strategies import Strategy

HISTORY_S: Final = 75.0
STALE_S: Final = 30.0
LASTS_S: Final = 3600


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo optimize --strategy balanced\n  eo optimize --strategy aggressive --max-power-cap 600 --json\n"
        "  eo optimize --namespace team-a\n  eo optimize --strategy balanced --max-power-cap 650 --apply --for 2h --yes"
    )
    parser.add_argument(
        "--strategy", default="balanced", help="conservative, balanced (default), aggressive, ml-driven"
    )
    parser.add_argument("--max-power-cap", type=float, metavar="WATTS", help="a limit for every GPU, W")
    parser.add_argument("--min-replicas", type=int, metavar="N", help="replicas that must stay")
    parser.add_argument(
        "--namespace", type=name, help="only GPUs that this Kubernetes namespace holds (default: the whole cluster)"
    )
    parser.add_argument("--apply", action="store_true", help="send the recommended caps as operator's words")
    parser.add_argument("--reason", default="", help="with --apply: why, for `eo explain`")
    parser.add_argument(
        "--for", dest="duration_s", type=duration_s, default=LASTS_S, metavar="TIME", help="with --apply: 10m, 2h (1h)"
    )
    writing(parser)


def run(args: argparse.Namespace) -> int:
    from agents.gateway.advise import advise, totals
    from models.policy.recommend import Wish

    chosen = _strategy(args.strategy)
    _check(args)
    layout = Layout.from_env()
    bootstrap = resolve_bootstrap(layout)
    state = _read(bootstrap)
    wish = Wish(args.max_power_cap, args.min_replicas)
    only = _gpus_of(bootstrap, state.cluster, args.namespace)
    found = advise(state, chosen, wish, now_ns=time.time_ns(), stale_s=STALE_S, only=only)
    where = state.cluster if only is None else args.namespace
    if not found:
        raise EoError(
            f"no GPU of {where} outside the hold-out has reported for {STALE_S:g} s; `eo status` shows why.",
            FAILED,
        )
    value: dict[str, Any] = {
        "cluster": state.cluster,
        "namespace": where,
        "strategy": chosen.name,
        "groups": [one.as_dict() for one in found],
        "total": totals(found),
    }
    text = _text(value)
    if args.apply:
        value["applied"] = _apply(args, state, found, layout, bootstrap)
        text += f"\n{value['applied']['reason']}"
    emit(args, value, text)
    return DONE


def _strategy(name: str) -> Strategy:
    import difflib

    from models.policy.strategies import STRATEGIES

    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(STRATEGIES)}."
        raise EoError(f"{name!r} is no strategy; {hint}", USAGE)
    return STRATEGIES[name]


def _check(args: argparse.Namespace) -> None:
    if args.max_power_cap is not None and not 0 < args.max_power_cap <= 2000:
        raise EoError(f"{args.max_power_cap:g} W is outside 0 to 2000 W; give watts of one GPU, not milliwatts.", USAGE)
    if args.min_replicas is not None and args.min_replicas < 0:
        raise EoError(f"--min-replicas {args.min_replicas} is below 0; leave it out for none.", USAGE)


def _read(bootstrap: str) -> ClusterState:
    """The cluster as the last minute tells it."""
    from confluent_kafka import KafkaException

    from agents.cli.live import LiveReader
    from agents.gateway.cluster import ClusterState

    state, heard = ClusterState(intents.cluster_name(), wall_ns=time.time_ns), _Heard()
    try:
        reader = LiveReader(bootstrap, history_s=HISTORY_S)
    except KafkaException as error:
        raise EoError(f"no broker answers at {bootstrap} ({error}); `eo doctor kafka` says why.") from error
    try:
        reader.catch_up(heard)
    finally:
        reader.close()
    heard.into(state)
    return state


@dataclass(slots=True)
class _Heard:
    """Messages of several topics. Envelopes are folded first: whose latency it was is known by their groups only."""

    messages: list[tuple[str, bytes | None]] = field(default_factory=list)

    def fold(self, topic: str, payload: bytes | None) -> None:
        self.messages.append((topic, payload))

    def into(self, state: ClusterState) -> None:
        for topic, payload in sorted(self.messages, key=lambda one: one[0] != DESIRED.name):
            state.fold(topic, payload)


def _gpus_of(bootstrap: str, cluster: str, namespace: str | None) -> frozenset[str] | None:
    """The GPUs of a namespace, None = all; raises EoError(USAGE) with the names that there are."""
    from agents.cli.placement import PlacementReader, by_namespace
    from streams.errors import StreamsError

    if namespace is None or namespace == cluster:
        return None
    reader = PlacementReader(bootstrap, cluster)
    try:
        known = by_namespace(reader.look().values())
    except StreamsError as error:
        raise EoError(f"{error}; `eo doctor kafka` says why.") from error
    finally:
        reader.close()
    if namespace not in known:
        names = ", ".join(sorted(known)) or "none: no source tells of Kubernetes (dcgm-exporter with pod labels does)"
        raise EoError(
            f"there is no namespace {namespace!r} now; there are: {cluster} (the whole cluster), {names}.", USAGE
        )
    return known[namespace]


def _apply(
    args: argparse.Namespace, state: ClusterState, found: Sequence[Recommendation], layout: Layout, bootstrap: str
) -> dict[str, Any]:
    from agents.gateway import apply

    wanted = apply.plan(state, found, time.time_ns())
    if isinstance(wanted, apply.Refused):
        raise EoError(f"{wanted.why.rstrip('.')}; {wanted.fix}.", REFUSED)
    if wanted and not args.dry_run:
        confirm(args, f"Cap {len(wanted)} GPUs for {args.duration_s} s?")
    sent = apply.words(
        wanted,
        layout=layout,
        cluster=state.cluster,
        actor=None,
        reason=args.reason or f"eo optimize, {args.strategy}",
        duration_s=args.duration_s,
        now_ns=time.time_ns,
        known={} if args.dry_run or not wanted else intents.newest_of(bootstrap, layout, "cap", state.cluster),
    )
    if sent and not args.dry_run:
        intents.publish_all(bootstrap, sent)
    told = apply.outcome(sent, found, args.strategy)
    return told | {"state": "dry_run", "reason": f"Would send {len(sent)} caps."} if args.dry_run else told


def _text(value: dict[str, Any]) -> str:
    rows = [
        (
            group["group"]["stack"] or "no engine",
            group["gpus"],
            group["current_w_per_gpu"],
            group["expected_w_per_gpu"],
            _percent(group["expected_change_ratio"]),
            group["power_cap_w"],
            group["expected_p99_ms"]["tbt"],
            group["bound_ms"]["tbt"],
            group["confidence"],
        )
        for group in value["groups"]
    ]
    head = ("group", "GPUs", "W now", "W expected", "change", "cap W", "p99 TBT ms", "bound", "confidence")
    reasons = [f"{group['group']['stack'] or 'no engine'}: {group['reason']}" for group in value["groups"]]
    reasons += [f"confidence {group['confidence']}: {group['confidence_reason']}" for group in value["groups"]]
    kinds = sorted({str(group["made_from"]["quality"]) for group in value["groups"]})
    label = f"ESTIMATED from {', '.join(kinds)} samples: strategy {value['strategy']}, cluster {value['cluster']}"
    if value["namespace"] != value["cluster"]:
        label += f", namespace {value['namespace']}"
    return "\n".join([label, table(rows, head), *reasons])


def _percent(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio * 100:+.1f} %"
