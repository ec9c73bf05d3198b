"""Applies a recommendation as an operator would: one signed cap per GPU that ends by itself.

The words are requests. The actuation job checks each signature and the safety rules, the capper has the last word, and
a cluster in mode observe stays in it: nothing is sent there. Hold-out GPUs and infeasible groups get no word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agents.cli import intents
from agents.cli.live import NodeView
from agents.gateway.advise import Recommendation
from agents.gateway.cluster import ClusterState
from streams.contract.layout import Layout
from streams.contract.records import OperatorIntent

WRITES: Final = ("canary", "on")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing can be applied now, and the next step."""

    why: str
    fix: str


def plan(state: ClusterState, found: Sequence[Recommendation], now_ns: int) -> list[tuple[str, float]] | Refused:
    """GPU and watts of every cap that may be sent now, or why none may be."""
    with state.lock:
        views = [state.live.view(node) for node in state.latest]
        live = [view for view in views if view.lease_end_ns >= now_ns]
        may = {uuid for view in live if view.mode in WRITES for uuid in view.group if _open(view, uuid)}
        modes = {view.mode for view in live}
    if not live:
        return Refused(
            "no node has a live envelope: the actuation job is away or paused, so nobody would act on a word.",
            "`eo status` shows the job, `eo cap show` a pause; apply again afterwards",
        )
    if not modes & set(WRITES):
        return Refused(
            f"the cluster is in mode {', '.join(sorted(modes))}, in which nothing is written to hardware.",
            "set EO_MODE=canary or on for the actuation job, and opt_in on the nodes, then apply again",
        )
    wanted = [(uuid, watts) for uuid, watts in caps(found) if uuid in may]
    broken = [one for one in found if not one.advice.feasible]
    if broken and not wanted:
        return Refused(broken[0].advice.reason, "ask for a higher max_power_cap, or leave it out")
    return wanted


def _open(view: NodeView, uuid: str) -> bool:
    """In mode canary only what is granted already may be capped: the rest of the cluster is not part of the trial."""
    group = view.group[uuid]
    return group != "hold-out" and (view.mode != "canary" or group == "controlled")


def caps(found: Sequence[Recommendation]) -> list[tuple[str, float]]:
    """GPU and watts of every cap that the recommendations hold."""
    return [
        (uuid, one.advice.power_cap_w)
        for one in found
        if one.advice.feasible and one.advice.power_cap_w is not None
        for uuid in one.gpus
    ]


def words(
    wanted: Sequence[tuple[str, float]],
    *,
    layout: Layout,
    cluster: str,
    actor: str | None,
    reason: str,
    duration_s: int,
    now_ns: Callable[[], int],
    known: Mapping[str, int],
) -> list[OperatorIntent]:
    """The signed words, each put after the newest that `known` has about its scope.

    Raises EoError when this user has no operator key.
    """
    return [
        intents.make(
            "cap",
            f"gpu/{uuid}",
            layout=layout,
            reason=reason,
            duration_s=duration_s,
            max_power_w=watts,
            now_ns=now_ns,
            cluster=cluster,
            actor=actor,
            known_ns=known.get(f"gpu/{uuid}"),
        )
        for uuid, watts in wanted
    ]


def outcome(sent: Sequence[OperatorIntent], found: Sequence[Recommendation], strategy: str) -> dict[str, Any]:
    """What `applied` says after sending."""
    if not sent:
        return {
            "state": "nothing_to_apply",
            "caps": 0,
            "expires_ns": None,
            "intent_ids": [],
            "reason": (
                f"{strategy} asks for clocks here and for no power cap; clocks are granted by the actuation job under "
                f"EO_STRATEGY={strategy}. Give constraints.max_power_cap for a cap."
            ),
        }
    left_out = sum(len(one.gpus) for one in found) - len(sent)
    return {
        "state": "sent",
        "caps": len(sent),
        "expires_ns": max(word.expires_ns or 0 for word in sent),
        "intent_ids": [word.intent_id for word in sent],
        "reason": (
            f"{len(sent)} GPUs are to keep their cap; {left_out} were left out. `eo explain GPU` says how one went."
        ),
    }


NOT_ASKED: Final[dict[str, Any]] = {
    "state": "not_asked",
    "caps": 0,
    "expires_ns": None,
    "intent_ids": [],
    "reason": "apply was not asked for.",
}
