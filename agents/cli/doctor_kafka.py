"""What `eo doctor kafka` looks at: from the address to the clock, in the order in which things fail."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from agents.cli.base import EoError
from agents.cli.brokers import ready, resolve_bootstrap
from agents.cli.doctor_check import Check, guarded
from agents.cli.topic_admin import plan
from streams.contract.kafka import assigned_consumer_config, producer_config
from streams.contract.layout import Layout
from streams.contract.topics import DEFAULT_PARTITIONS, TOPICS

ASK_S: Final = 10.0
SKEW_WARN_S: Final = 1.0
SKEW_FAIL_S: Final = 30.0  # commands more than 60 s old or early are refused: half of it leaves room for both clocks


def checks(
    layout: Layout, env: Mapping[str, str], *, wall_ns: Callable[[], int] = time.time_ns, timeout_s: float = ASK_S
) -> list[Check]:
    """Every check that can be made; when the broker cannot be reached, the rest is left out."""
    try:
        bootstrap = resolve_bootstrap(layout, env)
    except EoError as error:
        return [Check("broker", "fail", str(error))]
    found = [guarded("listeners", lambda: _listeners(bootstrap, timeout_s))]
    if found[0].verdict == "fail":
        return found
    writer = f"actuation-{env.get('EO_CLUSTER') or 'default'}-doctor"
    found += [
        _coordinator(
            "group coordinator", ready.group_coordinator(bootstrap, timeout_s), "READ on the group prefix `eo-`"
        ),
        _coordinator(
            "transactions",
            ready.transaction_coordinator(bootstrap, timeout_s, name=writer),
            "WRITE on the transactional id prefix `actuation-` (the actuation job alone needs it)",
        ),
        guarded("topics", lambda: topics(bootstrap)),
        guarded("rights", lambda: rights(bootstrap), otherwise="warn"),
    ]
    return [*found, *round_trip(bootstrap, wall_ns=wall_ns, timeout_s=timeout_s)]


def _listeners(bootstrap: str, timeout_s: float) -> str:
    found = ready.check_listeners(bootstrap, timeout_s)
    return f"{bootstrap} answers; clients go to " + ", ".join(f"{host}:{port}" for _, host, port in found)


def _coordinator(name: str, reason: str | None, right: str) -> Check:
    if reason is None:
        return Check(name, "ok", "its coordinator answers")
    if "uthoriz" in reason:
        return Check(name, "warn", f"this user may not use it ({reason}); give it {right}.")
    told = "a broker that has just started needs some seconds, one without this feature cannot run the actuation job."
    return Check(name, "fail", f"its coordinator does not answer ({reason}); {told}")


def topics(bootstrap: str) -> str:
    """All topics as the contract has them, all with one partition count; raises EoError with what differs."""
    first = plan(bootstrap, partitions=DEFAULT_PARTITIONS)
    counts = [one.partitions for one, topic in zip(first, TOPICS, strict=True) if topic.partitions is None]
    count = counts[0]
    changes = [change for change in plan(bootstrap, partitions=count) if change.action != "same"]
    if changes:
        told = "; ".join(f"{change.topic}: {change.detail}" for change in changes[:3])
        more = f" and {len(changes) - 3} more" if len(changes) > 3 else ""
        raise EoError(f"{told}{more}; `eo topics apply --partitions {count}` does what can be done in place.")
    return f"{len(TOPICS)} topics as the contract has them, {count} partitions"


def rights(bootstrap: str) -> str:
    """READ and WRITE on every topic; raises EoError that names the topics without one of them.

    A Faust worker without a right hangs without a word, so this must be known before.
    """
    from confluent_kafka import KafkaException, TopicCollection
    from confluent_kafka.admin import AclOperation, AdminClient

    admin = AdminClient(ready.client_config(bootstrap))
    names = TopicCollection([topic.name for topic in TOPICS])
    missing = []
    for name, future in admin.describe_topics(names, include_authorized_operations=True).items():
        try:
            allowed = future.result(ASK_S).authorized_operations
        except KafkaException as error:
            missing.append(f"{name} ({error.args[0].str()})")
            continue
        if allowed is None:
            continue  # a broker that does not tell
        lacks = [one.name for one in (AclOperation.READ, AclOperation.WRITE) if one not in allowed]
        if lacks:
            missing.append(f"{name} (no {' and no '.join(lacks)})")
    if missing:
        raise EoError(
            f"this user lacks rights on {'; '.join(missing)}: each process needs READ on what it reads and WRITE on "
            "what it writes, see the table of topics in docs/architecture.md."
        )
    return f"READ and WRITE on all {len(TOPICS)} topics"


def round_trip(bootstrap: str, *, wall_ns: Callable[[], int], timeout_s: float = ASK_S) -> list[Check]:
    """One record there and back on a topic of our own, and this machine's clock against the broker's stamp on it."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"energy.doctor.{os.getpid()}-{time.monotonic_ns()}"
    admin = AdminClient(ready.client_config(bootstrap))
    new = NewTopic(name, num_partitions=1, replication_factor=1, config={"message.timestamp.type": "LogAppendTime"})
    try:
        admin.create_topics([new], operation_timeout=timeout_s)[name].result()
    except KafkaException as error:
        told = (
            f"no topic for it could be made ({error.args[0].str()}); it needs CREATE on `energy.doctor.`, or skip it."
        )
        return [Check("round trip", "warn", told)]
    try:
        sent_ns, stamp_ms, back_ns = _there_and_back(bootstrap, name, wall_ns, timeout_s)
    except (EoError, KafkaException) as error:
        told = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        return [Check("round trip", "fail", f"a record did not come back from {bootstrap}: {told}")]
    finally:
        with suppress(KafkaException):  # left over, it holds one record and the name says whose it is
            admin.delete_topics([name], operation_timeout=timeout_s)[name].result()
    trip = Check("round trip", "ok", f"written and read in {(back_ns - sent_ns) / 1e6:.0f} ms")
    return [trip, skew(sent_ns, stamp_ms, back_ns)]


def _there_and_back(bootstrap: str, topic: str, wall_ns: Callable[[], int], timeout_s: float) -> tuple[int, int, int]:
    """(sent, the broker's stamp in ms, acknowledged): the stamp lies between the two where the clocks agree."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    acked: list[tuple[int, Any]] = []
    config = {**producer_config(bootstrap, "eo-doctor"), "message.timeout.ms": int(timeout_s * 1000), "log_level": 0}
    producer = Producer(config)
    # The first record also pays for connecting and for the new topic's metadata; the second one is timed.
    producer.produce(topic, b"eo doctor")
    producer.flush(timeout_s)
    sent = wall_ns()
    producer.produce(topic, b"eo doctor", on_delivery=lambda error, _: acked.append((wall_ns(), error)))
    producer.flush(timeout_s)
    if not acked or acked[0][1] is not None:
        raise EoError(f"not acknowledged within {timeout_s:g} s ({acked[0][1].str() if acked else 'no answer'}).")
    consumer = Consumer({**assigned_consumer_config(bootstrap, "eo-doctor"), "log_level": 0})
    try:
        consumer.assign([TopicPartition(topic, 0, 1)])
        message = consumer.poll(timeout_s)
        if message is None or message.error():
            raise EoError(f"acknowledged but not readable within {timeout_s:g} s.")
        return sent, int(message.timestamp()[1]), acked[0][0]
    finally:
        consumer.close()


def skew(sent_ns: int, stamp_ms: int, back_ns: int) -> Check:
    """The least distance between the clocks that explains the stamp: zero when it lies within the round trip."""
    stamp_ns = stamp_ms * 1_000_000
    # The stamp is cut to whole milliseconds: up to 1 ms early is no difference.
    ahead_s = (max(0, sent_ns - stamp_ns - 1_000_000) - max(0, stamp_ns - back_ns)) / 1e9
    if abs(ahead_s) < SKEW_WARN_S:
        return Check("clock", "ok", f"within {max(abs(ahead_s), (back_ns - sent_ns) / 1e9):.3f} s of the broker's")
    verb = "ahead of" if ahead_s > 0 else "behind"
    return Check(
        "clock",
        "fail" if abs(ahead_s) > SKEW_FAIL_S else "warn",
        f"this machine's clock is {abs(ahead_s):.1f} s {verb} the broker's; nodes refuse commands that are more than "
        "60 s off: start a time service (chrony, systemd-timesyncd) on both.",
    )
