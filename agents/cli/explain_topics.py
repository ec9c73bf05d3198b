"""`eo explain` from the live topics: the records of one node, by assign(), turned into rows per GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from agents.cli import plan_text
from agents.cli.base import EoError
from agents.cli.explain_story import UNSOLICITED, GpuStory, Row, Story
from agents.cli.gpu_lookup import find
from streams.contract.codec import decode
from streams.contract.errors import ContractError
from streams.contract.kafka import partition_of
from streams.contract.records import AnomalyVerdict, LedgerEntry, NodeFeatures, PowerApplied, PowerDesired, Record
from streams.contract.topics import ANOMALY, APPLIED, DESIRED, FEATURES, LEDGER, Topic

if TYPE_CHECKING:
    from streams.replay import Replay

R = TypeVar("R", bound=Record)
ENGINES_S = 30.0  # how far back the engines of a node are looked for
LOOK_BACK = 512  # offsets of the node's partition looked at first for its newest command


def gather(bootstrap: str, target: str, *, cluster: str, since_s: float, now_ns: int) -> Story:
    """The story of a GPU or node from the topics; raises EoError when it is unknown or the broker does not answer."""
    from agents.cli.kafka_read import ASK_S
    from streams.errors import StreamsError
    from streams.replay import Replay

    try:
        with Replay(bootstrap, "eo-explain", timeout_s=ASK_S, quiet=True) as replay:
            place = find(replay, target, cluster)
            stories = _stories(replay, place.node, cluster=cluster, since_ms=int(now_ns / 1e6 - since_s * 1e3))
            plan = _plan(replay, place.node, place.uuid, cluster=cluster, now_ns=now_ns)
    except StreamsError as error:
        raise EoError(f"{error}.") from error
    wanted = [s for s in stories.values() if place.uuid in (None, s.uuid)]
    if place.uuid is not None and not wanted:
        wanted = [GpuStory(place.node, place.uuid)]
    return Story(cluster, "topics", now_ns, since_s, wanted, plan)


def _plan(replay: Replay, node: str, uuid: str | None, *, cluster: str, now_ns: int) -> list[str]:
    """What the slow controller says of the engines on these GPUs; none where it has written nothing lately."""
    from streams.errors import StreamsError
    from streams.plan import read_plans

    features = _since(replay, FEATURES, NodeFeatures, node, int(now_ns / 1e6 - ENGINES_S * 1e3))
    engines = features[-1].engines if features else ()
    pools = [(one.stack, one.workload) for one in engines if uuid is None or uuid in one.gpu_uuid]
    try:
        plans = read_plans(replay, cluster, now_ns=now_ns)
    except StreamsError as error:
        return [f"The slow controller's plan cannot be read: {error}."]
    return plan_text.explain_lines(plans, engine_pools=pools)


def newest_command(replay: Replay, node: str, cluster: str) -> PowerDesired | None:
    """The last envelope of a cluster's node, searched backwards from the end of its partition."""
    home = partition_of(node.encode(), replay.partitions(DESIRED.name))
    low, end = replay.bounds(DESIRED.name, home)
    width = LOOK_BACK
    while end > low:
        start = max(low, end - width)
        every = _records(replay, DESIRED, PowerDesired, node, home=home, start=start, end=end)
        found = [command for command in every if command.cluster == cluster]
        if found:
            return found[-1]
        end, width = start, width * 8
    return None


def _stories(replay: Replay, node: str, *, cluster: str, since_ms: int) -> dict[str, GpuStory]:
    stories: dict[str, GpuStory] = {}
    command = newest_command(replay, node, cluster)
    if command is not None:
        for i, uuid in enumerate(command.gpu.uuid):
            stories[uuid] = GpuStory(node, uuid, command=command_row(command, i))
    for ack in _since(replay, APPLIED, PowerApplied, node, since_ms):
        if ack.cluster != cluster:
            continue
        for i, uuid in enumerate(ack.gpu.uuid):
            _add_ack(stories.setdefault(uuid, GpuStory(node, uuid)), ack_row(ack, i))
    for verdict in _since(replay, ANOMALY, AnomalyVerdict, node, since_ms):
        if verdict.cluster != cluster:
            continue
        row = _plain(verdict, uuid=verdict.gpu_uuid)
        stories.setdefault(verdict.gpu_uuid, GpuStory(node, verdict.gpu_uuid)).verdicts.append(row)
    for entry in _since(replay, LEDGER, LedgerEntry, node, since_ms):
        if entry.cluster != cluster:
            continue
        row = _plain(entry, uuid=entry.gpu_uuid)
        stories.setdefault(entry.gpu_uuid, GpuStory(node, entry.gpu_uuid)).ledger.append(row)
    return stories


def _add_ack(story: GpuStory, row: Row) -> None:
    if row["event"] in UNSOLICITED:
        story.events.append(row)
    else:
        story.ack = row


def command_row(command: PowerDesired, index: int) -> Row:
    """One GPU's line of an envelope, with the archive's names."""
    columns = command.gpu
    target = next((t for t in command.targets if t.engine == columns.engine[index]), None)
    return {
        "epoch": command.epoch,
        "seq": command.seq,
        "ts_ns": command.issued_at_ns,
        "sample_ts_ns": command.sample_ts_ns,
        "ttl_ms": command.ttl_ms,
        "on_expiry": command.on_expiry,
        "mode": command.mode,
        "strategy": command.strategy,
        "policy_version": command.policy_version,
        "cause": list(command.cause),
        "key_id": command.key_id,
        "min_sm_mhz": columns.min_sm_mhz[index],
        "max_sm_mhz": columns.max_sm_mhz[index],
        "max_power_w": columns.max_power_w[index],
        "engine": columns.engine[index],
        "holdout": columns.holdout[index],
        "gpu_reason": columns.reason[index],
        "tbt_target_ms": target.tbt_ms if target else None,
        "ttft_target_ms": target.ttft_ms if target else None,
        "e2e_target_ms": target.e2e_ms if target else None,
    }


def ack_row(ack: PowerApplied, index: int) -> Row:
    """One GPU's line of an acknowledgement, with the archive's names."""
    names = ("event", "epoch", "seq", "ts_ns", "issued_at_ns", "sample_ts_ns", "latency_ms", "actuator", "capper_id")
    row: Row = {name: getattr(ack, name) for name in names}
    return row | {name: getattr(ack.gpu, name)[index] for name in ack.gpu.__struct_fields__ if name != "uuid"}


def _plain(record: Record, *, uuid: str) -> Row:
    row: Row = msgspec.to_builtins(record)
    return row | {"uuid": uuid}


def _since(replay: Replay, topic: Topic, record: type[R], node: str, since_ms: int) -> list[R]:
    home = partition_of(node.encode(), replay.partitions(topic.name))
    start, end = replay.offset_at(topic.name, home, since_ms), replay.bounds(topic.name, home)[1]
    return _records(replay, topic, record, node, home=home, start=start, end=end)


def _records(replay: Replay, topic: Topic, record: type[R], node: str, *, home: int, start: int, end: int) -> list[R]:
    found: list[R] = []
    for chunk in replay.read(topic.name, home, start=start, end=end):
        for one in chunk:
            if one.key != node.encode() or one.value is None:
                continue
            try:
                found.append(decode(record, one.value))
            except ContractError:
                continue  # the jobs have sent it to the dead letters
    return found
