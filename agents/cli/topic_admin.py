"""The topics of the contract against a cluster: what is missing, what differs, what can be changed in place.

A partition count is never changed in place: the same key would go to another partition, and with it a node's state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

from agents.cli.base import EoError
from agents.cli.brokers.ready import client_config
from streams.contract.topics import TOPICS, Topic

ASK_S: Final = 15.0
Action = Literal["create", "alter", "blocked", "same"]


@dataclass(frozen=True, slots=True)
class Change:
    """One topic's difference from the contract. `blocked` cannot be made in place; `same` is no difference."""

    topic: str
    action: Action
    detail: str
    partitions: int
    config: tuple[tuple[str, str], ...] = ()


def plan(bootstrap: str, *, partitions: int, replication: int = 1, topics: Iterable[Topic] = TOPICS) -> list[Change]:
    """Compares the cluster with the contract; raises EoError when the cluster does not answer or refuses to tell."""
    del replication  # of a topic that exists it is the cluster's own business (reassignment)
    admin = _admin(bootstrap)
    wanted = tuple(topics)
    found = _ask(bootstrap, "list the topics", lambda: admin.list_topics(timeout=ASK_S).topics)
    there = [topic for topic in wanted if topic.name in found]
    configs = _configs(bootstrap, admin, [topic.name for topic in there])
    return [
        _compare(topic, topic.partition_count(partitions), len(found[topic.name].partitions), configs[topic.name])
        if topic in there
        else _missing(topic, topic.partition_count(partitions))
        for topic in wanted
    ]


def apply(bootstrap: str, *, partitions: int, replication: int = 1, topics: Iterable[Topic] = TOPICS) -> list[Change]:
    """Makes what is missing and changes settings that may be changed in place; returns the plan that it followed.

    Blocked changes are left alone and stand in the result: the caller decides what they mean. Idempotent.
    Raises EoError with the broker's reason when a topic cannot be made or changed.
    """
    changes = plan(bootstrap, partitions=partitions, replication=replication, topics=topics)
    admin = _admin(bootstrap)
    _create(bootstrap, admin, [change for change in changes if change.action == "create"], replication)
    _alter(bootstrap, admin, [change for change in changes if change.action == "alter"])
    return changes


def _missing(topic: Topic, partitions: int) -> Change:
    config = tuple(topic.config().items())
    told = ", ".join(f"{name} {value}" for name, value in config)
    return Change(topic.name, "create", f"missing: {partitions} partitions, {told}", partitions, config)


def _compare(topic: Topic, wanted: int, found: int, config: dict[str, str]) -> Change:
    if wanted != found:
        return Change(
            topic.name,
            "blocked",
            f"{found} partitions, {wanted} wanted; a count never changes in place: pass --partitions {found}, or make "
            "a new cluster and move to it",
            found,
        )
    differs = tuple((name, value) for name, value in topic.config().items() if config.get(name) != value)
    if not differs:
        return Change(topic.name, "same", f"{found} partitions, {topic.cleanup}", found)
    told = ", ".join(f"{name} {config.get(name)} -> {value}" for name, value in differs)
    return Change(topic.name, "alter", told, found, differs)


def _admin(bootstrap: str) -> Any:
    from confluent_kafka.admin import AdminClient

    return AdminClient(client_config(bootstrap))


def _ask(bootstrap: str, what: str, question: Callable[[], Any]) -> Any:
    from confluent_kafka import KafkaException

    try:
        return question()
    except KafkaException as error:
        raise EoError(
            f"the broker at {bootstrap} did not {what} ({error.args[0].str()}); `eo doctor kafka` says what is wrong."
        ) from error


def _configs(bootstrap: str, admin: Any, names: list[str]) -> dict[str, dict[str, str]]:
    from confluent_kafka.admin import ConfigResource, ResourceType

    if not names:
        return {}
    asked = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=ASK_S)
    return {
        resource.name: {
            entry.name: entry.value
            for entry in _ask(bootstrap, f"tell the settings of {resource.name}", future.result).values()
        }
        for resource, future in asked.items()
    }


def _create(bootstrap: str, admin: Any, changes: list[Change], replication: int) -> None:
    from confluent_kafka import KafkaError, KafkaException
    from confluent_kafka.admin import NewTopic

    if not changes:
        return
    new = [
        NewTopic(
            change.topic, num_partitions=change.partitions, replication_factor=replication, config=dict(change.config)
        )
        for change in changes
    ]
    for name, future in admin.create_topics(new, operation_timeout=ASK_S, request_timeout=ASK_S).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another `apply` was faster
                raise EoError(
                    f"topic {name} could not be made at {bootstrap} ({error.args[0].str()}); it needs CREATE on the "
                    f"topic and {replication} live broker(s)."
                ) from error


def _alter(bootstrap: str, admin: Any, changes: list[Change]) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    if not changes:
        return
    resources = [
        ConfigResource(
            ResourceType.TOPIC,
            change.topic,
            incremental_configs=[
                ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in change.config
            ],
        )
        for change in changes
    ]
    for resource, future in admin.incremental_alter_configs(resources, request_timeout=ASK_S).items():
        _ask(bootstrap, f"change the settings of {resource.name}", future.result)
