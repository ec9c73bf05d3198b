"""Which node a GPU is in, from what nodes reported last. Reads the newest features and envelopes, nothing older."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agents.cli.base import EoError
from streams.contract.records import NodeFeatures, PowerDesired
from streams.contract.topics import DESIRED, FEATURES, Topic

if TYPE_CHECKING:
    from streams.replay import Replay

NEWEST: Final = 1000  # offsets per partition: some 10 s of 100 nodes each


@dataclass(frozen=True, slots=True)
class Place:
    """A node and, when a GPU was asked for, its UUID."""

    node: str
    uuid: str | None


def find(replay: Replay, text: str, cluster: str) -> Place:
    """The node or GPU that `text` names: a node, a UUID, or the unique beginning of a UUID.

    Raises EoError when nothing or more than one GPU fits.
    """
    seen: dict[str, str] = {}
    for topic, record in ((FEATURES, NodeFeatures), (DESIRED, PowerDesired)):
        seen |= _newest(replay, topic, record, cluster)
        if text in seen.values():
            return Place(text, None)
        fitting = sorted(uuid for uuid in seen if uuid.startswith(text))
        if text in seen or len(fitting) == 1:
            uuid = text if text in seen else fitting[0]
            return Place(seen[uuid], uuid)
        if fitting:
            raise EoError(
                f"{len(fitting)} GPUs begin with {text!r}, e.g. {fitting[0]} and {fitting[1]}; write more of it."
            )
    raise EoError(
        f"no node or GPU {text!r} among the {len(set(seen.values()))} nodes that reported last in cluster {cluster!r}; "
        "`eo top -1` lists them."
    )


def _newest(
    replay: Replay, topic: Topic, record: type[NodeFeatures] | type[PowerDesired], cluster: str
) -> dict[str, str]:
    from streams.contract.codec import decode
    from streams.contract.errors import ContractError

    raw: dict[bytes | None, bytes | None] = {}
    for partition in range(replay.partitions(topic.name)):
        low, end = replay.bounds(topic.name, partition)
        for chunk in replay.read(topic.name, partition, start=max(low, end - NEWEST), end=end):
            raw |= {one.key: one.value for one in chunk}
    out: dict[str, str] = {}
    for value in raw.values():
        try:
            node = decode(record, value)
        except ContractError:
            continue  # the jobs have sent it to the dead letters
        if node.cluster == cluster:
            uuids = node.uuid if isinstance(node, NodeFeatures) else node.gpu.uuid
            out |= dict.fromkeys(uuids, node.node)
    return out
