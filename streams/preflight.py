"""Checks before a worker joins its group: broker, topics, partition counts, cleanup, rights.

Faust logs one line for a topic that it may not read and then hangs for ever, so a worker asks first and exits with one
sentence. Nothing is created or changed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from streams.contract.kafka import security
from streams.contract.topics import TOPICS, Topic
from streams.errors import PreflightFailed

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

TIMEOUT_S: Final = 5.0


def check(bootstrap: str, *, job: str, topics: Sequence[Topic], group: str, timeout_s: float = TIMEOUT_S) -> None:
    """Returns when the worker may start.

    Raises:
        PreflightFailed: with the topic or address, what is wrong, and the command that mends it.
    """
    from confluent_kafka.admin import AdminClient

    if not bootstrap:
        raise PreflightFailed("no broker is named: set KAFKA_BOOTSTRAP=host:port or run `eo broker up`")
    admin = AdminClient({"bootstrap.servers": bootstrap, "client.id": f"{group}-check", "log_level": 2, **security()})
    outputs = tuple(topic for topic in TOPICS if job in topic.writers and topic not in topics)
    counts = _partitions(admin, bootstrap, [*topics, *outputs], timeout_s)
    _check_counts(topics, counts)
    _check_cleanup(admin, topics, timeout_s)
    _check_rights(admin, job, topics, outputs=outputs, group=group, timeout_s=timeout_s)


def _partitions(admin: AdminClient, bootstrap: str, topics: Sequence[Topic], timeout_s: float) -> dict[str, int]:
    from confluent_kafka import KafkaError, KafkaException

    try:
        known = admin.list_topics(timeout=timeout_s).topics
        found = {
            topic.name: known.get(topic.name) or admin.list_topics(topic.name, timeout=timeout_s).topics[topic.name]
            for topic in topics
        }
    except KafkaException as error:
        raise PreflightFailed(
            f"no broker answers at {bootstrap} within {timeout_s:.0f} s ({error.args[0].str()}); "
            "check address and login with `eo doctor kafka`, or run `eo broker up`"
        ) from error
    counts = {}
    for name, metadata in found.items():
        code = metadata.error.code() if metadata.error is not None else None
        if code == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise PreflightFailed(_forbidden(name, "DESCRIBE"))
        if code is not None or not metadata.partitions:
            raise PreflightFailed(f"topic {name} does not exist on {bootstrap}; run `eo topics apply` first")
        counts[name] = len(metadata.partitions)
    return counts


def _forbidden(topic: str, operation: str) -> str:
    return (
        f"this user has no {operation} right on topic {topic}; ask for it, then `eo doctor kafka` shows what is granted"
    )


def _check_counts(topics: Sequence[Topic], counts: dict[str, int]) -> None:
    shared = [topic for topic in topics if topic.partitions is None]
    for topic in topics:
        wanted = topic.partitions or counts[shared[0].name]
        if counts[topic.name] != wanted:
            raise PreflightFailed(
                f"topic {topic.name} has {counts[topic.name]} partitions where {wanted} are needed"
                f"{'' if topic.partitions else f' (as {shared[0].name} has)'}; `eo topics plan` shows the difference"
            )


def _check_cleanup(admin: AdminClient, topics: Sequence[Topic], timeout_s: float) -> None:
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import ConfigResource, ResourceType

    asked = {ConfigResource(ResourceType.TOPIC, topic.name): topic for topic in topics}
    for resource, future in admin.describe_configs(list(asked), request_timeout=timeout_s).items():
        topic = asked[resource]
        try:
            entry = future.result().get("cleanup.policy")
        except KafkaException:
            continue  # reading settings is a right of its own, which a worker does not need
        if entry is not None and entry.value != topic.cleanup:
            raise PreflightFailed(
                f"topic {topic.name} has cleanup.policy {entry.value!r} where {topic.cleanup!r} is needed; "
                "`eo topics apply` sets it"
            )


def _check_rights(
    admin: AdminClient, job: str, topics: Sequence[Topic], *, outputs: Sequence[Topic], group: str, timeout_s: float
) -> None:
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AclOperation

    wanted = {topic.name: AclOperation.READ for topic in topics}
    wanted |= {topic.name: AclOperation.WRITE for topic in outputs}
    answers = admin.describe_topics(
        TopicCollection(list(wanted)), include_authorized_operations=True, request_timeout=timeout_s
    )
    for name, future in answers.items():
        try:
            operations: Sequence[Any] | None = future.result().authorized_operations
        except KafkaException:
            continue  # an older or partial broker does not answer this; reading will show it
        if operations and wanted[name] not in operations and AclOperation.ALL not in operations:
            raise PreflightFailed(_forbidden(name, wanted[name].name))
    _check_group(admin, group, timeout_s)


def _check_group(admin: AdminClient, group: str, timeout_s: float) -> None:
    from confluent_kafka import KafkaError, KafkaException

    try:
        admin.describe_consumer_groups([group], request_timeout=timeout_s)[group].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            raise PreflightFailed(
                f"this user may not join group {group}: READ on the group prefix `eo-` is needed"
            ) from error
