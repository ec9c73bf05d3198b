"""How far each consumer group is behind: committed offsets against the ends of its topics."""

from __future__ import annotations

from typing import Final

from streams.contract.kafka import security
from streams.contract.topics import ALERT, ANOMALY, APPLIED, DESIRED, FEATURES, INTENT, LEDGER, TELEMETRY, Topic

# What each job reads through its group; the archive reads all that it stores.
INPUTS: Final[dict[str, tuple[Topic, ...]]] = {
    "features": (TELEMETRY,),
    "anomaly": (FEATURES,),
    "actuation": (FEATURES, ANOMALY, APPLIED),
    "ledger": (FEATURES, DESIRED, APPLIED),
    "alerts": (TELEMETRY, FEATURES, DESIRED, APPLIED, ANOMALY),
    "deliver": (ALERT,),
    "archive": (TELEMETRY, FEATURES, ANOMALY, DESIRED, APPLIED, LEDGER, ALERT, INTENT),
}


def partition_lags(bootstrap: str, group: str, job: str) -> dict[tuple[str, int], int]:
    """Messages between the group's commit and the end of each partition; a transaction marker counts as one."""
    from confluent_kafka import Consumer, TopicPartition

    quiet = {"enable.auto.commit": False, "log_level": 0}  # what fails is raised: the client's own lines hide it
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, **quiet, **security()})
    try:
        metadata = consumer.list_topics(timeout=10)
        wanted = [
            TopicPartition(topic.name, partition)
            for topic in INPUTS[job]
            if topic.name in metadata.topics
            for partition in metadata.topics[topic.name].partitions
        ]
        lags: dict[tuple[str, int], int] = {}
        for place in consumer.committed(wanted, timeout=10):
            low, high = consumer.get_watermark_offsets(place, timeout=10)
            lags[(str(place.topic), int(place.partition))] = max(0, high - max(place.offset, low))
        return lags
    finally:
        consumer.close()


def committed_lag(bootstrap: str, group: str, job: str) -> int:
    """Messages that a job's group still has to commit, transaction markers at the very end left out."""
    lags = partition_lags(bootstrap, group, job)
    # A commit marker follows each transaction: an input that only holds markers after the commit is read to its end.
    return sum(lag for (topic, _), lag in lags.items() if lag > (1 if topic == DESIRED.name else 0))


def settled_groups(bootstrap: str, groups: tuple[str, ...]) -> tuple[str, ...]:
    """The groups whose members have their partitions; empty while the broker cannot say."""
    from confluent_kafka import ConsumerGroupState, KafkaException
    from confluent_kafka.admin import AdminClient

    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, **security()})
    answers = admin.describe_consumer_groups(list(groups), request_timeout=5)
    settled = []
    for group, answer in answers.items():
        try:
            if answer.result().state == ConsumerGroupState.STABLE:
                settled.append(group)
        except KafkaException:
            continue  # a group that nobody joined yet
    return tuple(settled)
