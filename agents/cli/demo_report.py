"""The demo's summary, counted from the topics, the archive and the devices, never from the loop's own memory."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from streams.contract.kafka import assigned_consumer_config
from streams.contract.topics import ALERT, ANOMALY, APPLIED, DESIRED, DLQ, FEATURES, TELEMETRY, Topic

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import duckdb

    from agents.cli.stack import Stack
    from streams.contract.layout import Layout

Identity = tuple[str, str, int]
ANSWERS: Final = ("applied", "clamped", "recommended", "refused")  # of an envelope, the best first
_RANK: Final = {kind: rank for rank, kind in enumerate(ANSWERS)}


class _Gpus(msgspec.Struct):
    uuid: list[str]


class _Identified(msgspec.Struct):
    node: str
    boot_id: str
    seq: int
    uuid: list[str] = []
    gpu: _Gpus | None = None

    def identity(self) -> Identity:
        return (self.node, self.boot_id, self.seq)

    def gpus(self) -> int:
        return len(self.gpu.uuid) if self.gpu is not None else len(self.uuid)


class _AckStatuses(msgspec.Struct):
    status: list[str]


class _Acks(msgspec.Struct):
    node: str
    event: str
    epoch: int
    seq: int
    gpu: _AckStatuses
    ack_seq: int = 0
    capper_id: str = ""


class _Command(msgspec.Struct):
    node: str
    epoch: int
    seq: int


@dataclass(slots=True)
class Counts:
    """Messages of one topic by identity, so that a message sent twice is seen as one and counted as a duplicate."""

    gpus: dict[Identity, int] = field(default_factory=dict)
    duplicates: int = 0

    def add(self, record: _Identified) -> None:
        identity = record.identity()
        if identity in self.gpus:
            self.duplicates += 1
        self.gpus[identity] = record.gpus()

    def rows(self) -> int:
        return sum(self.gpus.values())


def read_topic(bootstrap: str, topic: Topic) -> Iterator[bytes | None]:
    """Every value of a topic from its start to the end as it stood when the reading began."""
    from confluent_kafka import Consumer, KafkaError, TopicPartition

    consumer = Consumer(
        assigned_consumer_config(bootstrap, "eo-count") | {"enable.partition.eof": True, "log_level": 0}
    )
    try:
        partitions = consumer.list_topics(topic.name, timeout=10).topics[topic.name].partitions
        consumer.assign([TopicPartition(topic.name, partition, 0) for partition in partitions])
        open_partitions, silent = len(partitions), 0
        while open_partitions and silent < 20:
            messages = consumer.consume(1000, 1.0)
            silent = 0 if messages else silent + 1
            for message in messages:
                if message.error() is None:
                    yield message.value()
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_partitions -= 1
    finally:
        consumer.close()


def count_identified(bootstrap: str, topic: Topic) -> Counts:
    decoder, counts = msgspec.json.Decoder(_Identified), Counts()
    for value in read_topic(bootstrap, topic):
        if value is not None:
            counts.add(decoder.decode(value))
    return counts


@dataclass(slots=True)
class Commands:
    """Envelopes by identity, each with the best answer that it got: a total that its parts add up to.

    The topic of envelopes is compacted, so after ten minutes it holds fewer than were sent: the archive has the others.
    An envelope that a restarted node reads again is answered again; its first answer stands.
    """

    sent: set[Identity] = field(default_factory=set)
    answers: dict[Identity, str] = field(default_factory=dict)
    answered_again: int = 0
    restored: int = 0
    _acks: set[Identity] = field(default_factory=set)

    def answer(self, ack: _Acks) -> None:
        """One acknowledgement; the same one sent twice counts once."""
        own = (ack.node, ack.capper_id, ack.ack_seq)
        if ack.capper_id and own in self._acks:
            return
        self._acks.add(own)
        self.restored += ack.gpu.status.count("restored")
        if ack.event != "command":
            return
        identity = (ack.node, str(ack.epoch), ack.seq)
        kind = next((one for one in ANSWERS if one in ack.gpu.status), "refused")
        before = self.answers.get(identity)
        self.answered_again += before is not None
        if before is None or _RANK[kind] < _RANK[before]:
            self.answers[identity] = kind

    def count(self, *kinds: str) -> int:
        """Envelopes whose best answer was one of these."""
        return sum(self.answers.get(identity) in kinds for identity in self.sent)

    def facts(self) -> dict[str, int]:
        return {
            "commands": len(self.sent),
            "applied": self.count("applied", "clamped"),
            "recommended": self.count("recommended"),
            "refused": self.count("refused"),
            "unanswered": sum(identity not in self.answers for identity in self.sent),
            "answered_again": self.answered_again,
            "restored": self.restored,
        }


def read_commands(bootstrap: str, connection: duckdb.DuckDBPyConnection) -> Commands:
    """Envelopes of the topic and of the archive, acknowledgements of their topic."""
    out, command, ack = Commands(), msgspec.json.Decoder(_Command), msgspec.json.Decoder(_Acks)
    for value in read_topic(bootstrap, DESIRED):
        if value is not None:
            told = command.decode(value)
            out.sent.add((told.node, str(told.epoch), told.seq))
    rows = connection.execute("SELECT DISTINCT node, epoch, seq FROM power_desired").fetchall()
    out.sent |= {(node, str(epoch), seq) for node, epoch, seq in rows}
    for value in read_topic(bootstrap, APPLIED):
        if value is not None:
            out.answer(ack.decode(value))
    return out


def count_messages(bootstrap: str, topic: Topic) -> int:
    return sum(1 for _ in read_topic(bootstrap, topic))


def count_alerts(values: Iterable[bytes | None], ended_ns: int | None = None) -> dict[str, Any]:
    """Alerts by identity: how many there were, of which rules, how many still fired at the end.

    Nodes that are ended fall silent, and jobs that still read say so: what began after `ended_ns` is counted apart.
    """
    from streams.contract.records import Alert

    decoder, rules, firing, late = msgspec.json.Decoder(Alert), dict[str, str](), set[str](), set[str]()
    for value in values:
        if value is None:
            continue
        alert = decoder.decode(value)
        known = alert.alert_id in rules
        if not known and ended_ns is not None and alert.ts_ns > ended_ns:
            late.add(alert.alert_id)
        elif alert.alert_id not in late:
            (firing.discard if alert.state == "resolved" else firing.add)(alert.alert_id)
            rules[alert.alert_id] = alert.rule
    by_rule = dict(sorted(Counter(rules.values()).items()))
    return {
        "alerts": len(rules),
        "alerts_firing": len(firing),
        "alerts_by_rule": by_rule,
        "alerts_of_the_end": len(late),
    }


def archived_identities(connection: duckdb.DuckDBPyConnection) -> dict[Identity, int]:
    """Rows of telemetry in the archive by identity."""
    rows = connection.execute("SELECT node, boot_id, seq, count(*) FROM telemetry_node GROUP BY ALL").fetchall()
    return {(node, boot_id, seq): count for node, boot_id, seq, count in rows}


def summarise(stack: Stack, seconds: float) -> dict[str, Any]:
    """All figures of DEMO_JSON."""
    from agents.fleet.registers import open_registers
    from streams.sinks.archive_reader import open_archive

    bootstrap, plan = stack.bootstrap, stack.plan
    telemetry, features = count_identified(bootstrap, TELEMETRY), count_identified(bootstrap, FEATURES)
    connection = open_archive(stack.layout)
    archived = archived_identities(connection)
    usage = stack.usage()
    held = {
        identity
        for identity, gpus in telemetry.gpus.items()
        if identity in features.gpus or archived.get(identity) == gpus
    }
    return {
        "simulated": True,
        "data_dir": str(stack.layout.root),
        "broker": stack.broker.label if stack.broker else None,
        "strategy": plan.strategy,
        "seconds": round(seconds, 1),
        "wall_seconds": round((time.time_ns() - stack.started_ns) / 1e9, 1),
        "nodes": plan.nodes,
        "gpus": plan.nodes * plan.gpus,
        "samples": telemetry.rows(),
        "features": features.rows(),
        "anomalies": count_messages(bootstrap, ANOMALY),
        **count_alerts(read_topic(bootstrap, ALERT), stack.ended_ns),
        **read_commands(bootstrap, connection).facts(),
        "not_restored": len(open_registers(stack.layout.fleet).changed()),
        "lost": sum(gpus for identity, gpus in telemetry.gpus.items() if identity not in held),
        "duplicates": telemetry.duplicates + features.duplicates,
        "dlq": count_messages(bootstrap, DLQ),
        "archived_rows": sum(archived.values()),
        **effects(connection),
        "training": _training(bootstrap, connection) if plan.training else [],
        "cpu_core_seconds": {role: round(value, 2) for role, value in sorted(usage.cpu_s.items())},
        "rss_mb": {role: round(value, 1) for role, value in sorted(usage.rss_mb.items())},
        "restarts": dict(sorted(stack.processes.restarts.items())),
    }


def _training(bootstrap: str, connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    from agents.cli import demo_training

    return demo_training.count(read_topic(bootstrap, TELEMETRY), demo_training.held_out(connection))


def effects(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Power, latency and loop time by the shipped queries, so that `eo sql` gives the same figures."""
    from agents.cli.sql_run import named

    saving = (named(connection, "savings_holdout") or [{}])[0]
    latency = {row["arm"]: row for row in named(connection, "latency_by_group")}
    loop = (named(connection, "loop_time") or [{}])[0]
    interval = saving.get("saving_low_ratio"), saving.get("saving_high_ratio")
    return {
        "power_w_controlled_mean": saving.get("power_w_controlled_mean"),
        "power_w_holdout_mean": saving.get("power_w_holdout_mean"),
        "saving_ratio": saving.get("saving_ratio"),
        "saving_interval": None if None in interval else list(interval),
        "p99_latency_ms_controlled": latency.get("controlled", {}).get("tbt_p99_ms"),
        "p99_latency_ms_holdout": latency.get("holdout", {}).get("tbt_p99_ms"),
        "loop_ms_p50": loop.get("loop_ms_p50"),
        "loop_ms_p99": loop.get("loop_ms_p99"),
    }


def text(s: dict[str, Any], layout: Layout) -> str:
    """The summary for a person, and what next."""
    from agents.cli import demo_training

    cores = sum(s["cpu_core_seconds"].values()) / max(1e-9, s["wall_seconds"])
    cost = ", ".join(f"{role} {seconds:.1f} s" for role, seconds in s["cpu_core_seconds"].items())
    watts = _figure(s["power_w_controlled_mean"], "W"), _figure(s["power_w_holdout_mean"], "W")
    tbt = _figure(s["p99_latency_ms_controlled"], "ms"), _figure(s["p99_latency_ms_holdout"], "ms")
    loop = _figure(s["loop_ms_p50"], "ms"), _figure(s["loop_ms_p99"], "ms")
    rows = [
        (
            "samples",
            f"{s['samples']:,} acknowledged, {s['features']:,} feature rows, {s['archived_rows']:,} archived rows",
        ),
        ("lost", f"{s['lost']}, duplicates {s['duplicates']}, dead letters {s['dlq']}"),
        ("commands", _commands(s)),
        ("anomalies", f"{s['anomalies']:,} verdicts"),
        ("alerts", _alerts(s)),
        ("restored", f"{s['restored']:,} GPU restores; {s['not_restored']} devices not at their previous value"),
        ("power", f"{watts[0]} per controlled GPU, {watts[1]} per hold-out GPU"),
        ("saving", _saving(s)),
        ("p99 TBT", f"{tbt[0]} controlled, {tbt[1]} hold-out"),
        *(("training", demo_training.sentence(row)) for row in s["training"]),
        ("loop", f"{loop[0]} p50, {loop[1]} p99, from sample to read-back"),
        ("cost", f"{cores:.2f} cores in all: {cost}"),
    ]
    head = f"SIMULATED: {s['nodes']} nodes, {s['gpus']} GPUs, {s['seconds']:.0f} s, {s['strategy']}, {s['broker']}"
    where = f"EO_DATA_DIR={layout.root}"
    after = [
        "what next",
        f"  {where} eo sql savings_holdout",
        f"  {where} eo sql --list",
        f"  {where} eo explain sim-001",
    ]
    return "\n".join(["", head, *(f"{name:<10} {value}" for name, value in rows), "", *after])


def _commands(s: dict[str, Any]) -> str:
    """The parts add up to the envelopes."""
    parts = [f"{s['applied']:,} applied", f"{s['refused']:,} refused"]
    parts += [f"{s[name]:,} {name}" for name in ("recommended", "unanswered") if s[name]]
    again = f"; {s['answered_again']:,} answered again after a restart" if s["answered_again"] else ""
    return f"{s['commands']:,} envelopes: {', '.join(parts)}{again}"


def _alerts(s: dict[str, Any]) -> str:
    late = f"; {s['alerts_of_the_end']} more when the nodes were ended" if s["alerts_of_the_end"] else ""
    if not s["alerts"]:
        return f"0 fired{late}; eo demo faults says how to start one"
    rules = ", ".join(f"{rule} {count}" for rule, count in s["alerts_by_rule"].items())
    return f"{s['alerts']:,} fired ({rules}), {s['alerts_firing']} still firing{late}; eo alerts list --all"


def _figure(value: float | None, unit: str) -> str:
    return "unknown" if value is None else f"{value:,.1f} {unit}"


def _saving(s: dict[str, Any]) -> str:
    if s["saving_ratio"] is None:
        return "unknown: too few envelopes were applied to compare the groups; run it longer"
    low_high = s["saving_interval"]
    interval = (
        f" (95 % interval {low_high[0] * 100:.1f} to {low_high[1] * 100:.1f} %)" if low_high else " (no interval)"
    )
    return f"{s['saving_ratio'] * 100:.1f} % of GPU power against the hold-out{interval}"
