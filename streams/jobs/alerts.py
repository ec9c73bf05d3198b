"""The alerts job: telemetry, features, envelopes, acknowledgements and verdicts in; alerts with evidence out.

An alert tells. It never lowers a limit, powers off or moves load: this job writes to the alert topic and to its own
snapshot, and nowhere else. Whom it is told to is the business of the deliver job.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from models.alerts import measure
from models.alerts.carbon import Budget
from models.alerts.life import Change, Finding
from models.alerts.rule import KINDS, Rule
from models.policy.holdout import in_holdout
from models.policy.strategies import strategy
from streams.contract.errors import ContractError, SignatureInvalid
from streams.contract.records import AnomalyVerdict, EngineReading, PowerApplied, PowerDesired, Quality
from streams.contract.signing import KeyRing
from streams.contract.topics import ANOMALY, APPLIED, DESIRED, FEATURES, TELEMETRY, Topic
from streams.jobs import alerts_events as events
from streams.jobs import alerts_rules, alerts_wire
from streams.jobs.actuation_latency import Group
from streams.jobs.alerts_carbon import CarbonWatch
from streams.jobs.alerts_latency import LatencyWatch
from streams.jobs.alerts_node import NodeRules
from streams.jobs.alerts_record import to_alert
from streams.jobs.alerts_state import VERSION, PartitionState, Saved
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import bury, good
from streams.transport import FetchTuning

NAME: Final = "alerts"
LOOK_S: Final = 1.0  # how often rules on time are looked at
FUTURE_NS: Final = 3600 * 10**9  # a record this far ahead of the wall clock tells of a wrong clock: it moves nothing


class AlertsJob:
    """Implements streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (TELEMETRY, FEATURES, DESIRED, APPLIED, ANOMALY)
    # An alert may be half a second late, so that a drift is told within two; two fetches a second instead of twenty are
    # what makes this job cheap.
    fetch: Final = FetchTuning(max_batch=2000, max_wait_ms=500, min_bytes=8_000_000)

    def start(self, ctx: JobContext) -> None:
        settings = ctx.settings
        self._ctx, self._cluster = ctx, settings.cluster
        found = alerts_rules.load(
            settings.alert_rules_dir, location=settings.location, factor_file=settings.carbon_factors
        )
        self._rules = found.rules
        self._by_kind = {kind: [one for one in self._rules.values() if one.kind == kind] for kind in KINDS}
        self._carbon = CarbonWatch(ctx, self._of("carbon"), found.factors)
        self._on_node = NodeRules(self._by_kind)
        for name, why in sorted(found.silent.items()):
            ctx.log.warning("alert rule %s is silent: %s", name, why)
        path = ctx.layout.keyring
        self._keyring = KeyRing.load(path) if path.exists() else None
        bounds = strategy(settings.strategy)
        self._watches = [LatencyWatch(rule, bounds) for rule in self._of("latency")]
        self._parts: dict[int, PartitionState] = {}
        self._looked_s, self._since_ns = ctx.monotonic(), ctx.wall_ns()
        self._newest = {"telemetry": 0, "features": 0}
        self._newest_quality: Quality = "measured"
        self._firing = dict.fromkeys(self._rules, 0)

    def _of(self, kind: str) -> list[Rule]:
        return self._by_kind[kind]

    # --- partitions ---

    def assign(self, partitions: frozenset[int]) -> None:
        """Takes up the alerts that were open: none is told again."""
        self._since_ns = self._ctx.wall_ns()
        for number in sorted(partitions):
            part = self._parts[number] = PartitionState()
            for rule in self._of("carbon"):
                part.budget = Budget(rule.number("window_h") * 3600.0)
            self._recover(number, part)

    def _recover(self, number: int, part: PartitionState) -> None:
        saved = self._ctx.state.load(NAME, number)
        if saved is None or saved.data_version != VERSION:
            return
        try:
            part.recover(msgspec.json.decode(saved.data, type=Saved))
        except msgspec.MsgspecError as error:
            self._ctx.log.warning("snapshot of partition %d is not readable (%s); open alerts fire anew", number, error)

    def revoke(self, partitions: frozenset[int]) -> None:
        for number in partitions & self._parts.keys():
            self._save(number, self._parts.pop(number))
        self._count()

    def stop(self) -> None:
        """Nothing is open besides what revoke has saved."""

    def _save(self, number: int, part: PartitionState) -> None:
        self._ctx.state.save(NAME, number, part.saved(), part.offsets, VERSION)
        part.changed = part.urgent = False

    # --- in ---

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        part = self._parts[partition]
        part.offsets[topic.name] = records[-1].offset + 1
        part.changed = True
        if topic is TELEMETRY:
            self._telemetry(part, partition, records)
        elif topic is FEATURES:
            self._features(part, partition, records)
        elif topic is DESIRED:
            for _, envelope in good(self._ctx, topic, partition, records, PowerDesired, job=NAME):
                if envelope.cluster == self._cluster:
                    self._envelope(part, envelope)
        elif topic is APPLIED:
            for _, ack in good(self._ctx, topic, partition, records, PowerApplied, job=NAME):
                if ack.cluster == self._cluster:
                    for rule in self._of("event"):
                        self._take(part, rule, events.acknowledged(rule, ack, part.book))
        else:
            for _, verdict in good(self._ctx, topic, partition, records, AnomalyVerdict, job=NAME):
                if verdict.cluster == self._cluster:
                    for rule in self._of("verdict"):
                        self._take(part, rule, [events.judged(verdict)])
        if part.urgent:
            self._save(partition, part)  # after its alerts, before the batch is acknowledged
        return Outcome.ACK

    def _telemetry(self, part: PartitionState, partition: int, records: Sequence[ConsumerRecord]) -> None:
        now_ns, sensors, boots = self._ctx.wall_ns(), self._of("sensors"), self._of("boots")[:1]  # one watch, one rule
        for record in records:
            try:
                seen = alerts_wire.telemetry(record.value)
            except ContractError as error:
                bury(self._ctx, TELEMETRY, partition, record, reason=str(error), job=NAME)
                continue
            if seen.cluster != self._cluster:
                continue
            part.seen_ns[seen.node] = now_ns
            (part.simulated.add if seen.quality == "simulated" else part.simulated.discard)(seen.node)
            self._note("telemetry", seen.ts_ns, now_ns)
            for rule in boots:
                self._take(part, rule, _two_agents(rule, seen, part, now_ns))
            if seen.domains is not None:
                for rule in sensors:
                    self._take(part, rule, _disagreements(rule, seen))

    def _features(self, part: PartitionState, partition: int, records: Sequence[ConsumerRecord]) -> None:
        now_ns = self._ctx.wall_ns()
        for record in records:
            try:
                seen = alerts_wire.features(record.value)
            except ContractError as error:
                bury(self._ctx, FEATURES, partition, record, reason=str(error), job=NAME)
                continue
            if seen.cluster != self._cluster or not part.is_new(seen.node, seen.boot_id, seen.seq):
                continue
            if not self._note("features", seen.window_end_ns, now_ns):
                continue
            self._newest_quality = seen.quality
            self._carbon.spend(part.budget, seen)
            for engine in seen.engines:
                for watch in self._watches:
                    watch.add(seen.window_end_ns, self._group(part, engine), engine, seen.quality)
            self._on_node.remember(part, seen)
            if self._on_node.due(part, seen):
                for rule, finding in self._on_node.findings(part, self._parts.values(), seen.view()):
                    self._take(part, rule, [finding])

    def _note(self, stream: str, ts_ns: int, now_ns: int) -> bool:
        """Moves a stream's newest time; False for a time that cannot be."""
        if ts_ns > now_ns + FUTURE_NS:
            return False
        self._newest[stream] = max(self._newest[stream], ts_ns)
        return True

    def _group(self, part: PartitionState, engine: EngineReading) -> Group:
        known = part.holdout.get(engine.engine)
        if known is None:
            known = in_holdout(self._cluster, engine.engine, self._ctx.settings.holdout_ratio)
        return "holdout" if known else "controlled"

    def _envelope(self, part: PartitionState, envelope: PowerDesired) -> None:
        """Who is held out. Only a change is worth a signature's 0.2 ms: a forged one could hide a slow group."""
        gpu = envelope.gpu
        told = {engine: held for engine, held in zip(gpu.engine, gpu.holdout, strict=True) if engine is not None}
        if all(part.holdout.get(engine) == held for engine, held in told.items()):
            return
        try:
            if self._keyring is not None:
                self._keyring.verify(envelope)
        except SignatureInvalid as error:
            self._ctx.log.warning("an envelope for %s is not counted: %s", envelope.node, error)
            return
        part.holdout.update(told)

    # --- out ---

    def _take(self, part: PartitionState, rule: Rule, findings: Iterable[Finding]) -> None:
        for finding in findings:
            change = part.book.take(rule, finding)
            if change is not None:
                self._tell(part, rule, change)

    def _tell(self, part: PartitionState, rule: Rule, change: Change) -> None:
        alert = to_alert(self._cluster, rule, change)
        self._ctx.log.info("alert %s %s: %s", alert.state, alert.rule, alert.summary)
        self._ctx.publisher.send(alert, alert.node or alert.cluster, source=NAME)
        part.changed = part.urgent = True

    # --- rules on time ---

    def tick(self) -> Iterable[tuple[str, int, int]]:
        if self._ctx.monotonic() - self._looked_s >= LOOK_S and self._parts:
            self._looked_s = self._ctx.monotonic()
            self._look(self._ctx.wall_ns())
        for number, part in self._parts.items():
            if part.urgent or (part.changed and self._ctx.state.due(NAME, number)):
                self._save(number, part)
        return ()

    def _look(self, now_ns: int) -> None:
        self._carbon.reload()
        first = self._parts[min(self._parts)]  # keeps what is about no single node
        for rule in self._of("silence"):
            self._silence(rule, first, now_ns)
        for rule in self._of("stream_lag"):
            self._take(first, rule, self._lag(now_ns))
        for watch in self._watches:
            self._take(first, watch.rule, watch.findings(self._newest["features"]))
        budgets = [part.budget for part in self._parts.values() if part.budget is not None]
        for rule in self._carbon.rules:
            found = self._carbon.findings(rule, budgets, self._newest["features"], self._newest_quality)
            self._take(first, rule, found)
        for part in self._parts.values():
            for change in part.book.due(self._rules, now_ns):
                if change.rule in self._rules:
                    self._tell(part, self._rules[change.rule], change)
        self._count()

    def _count(self) -> None:
        fires = [entry.rule for part in self._parts.values() for entry in part.book.firing()]
        self._firing = {rule: fires.count(rule) for rule in self._rules}

    def firing(self) -> dict[str, int]:
        """How many alerts of each rule fired at the last look, over the partitions of this worker."""
        return self._firing

    def _silence(self, rule: Rule, first: PartitionState, now_ns: int) -> None:
        home = {node: part for part in self._parts.values() for node in part.seen_ns}
        seen_ns = {node: part.seen_ns[node] for node, part in home.items()}
        simulated = frozenset(node for part in self._parts.values() for node in part.simulated)
        for finding in measure.silence(
            rule,
            seen_ns=seen_ns,
            now_ns=now_ns,
            since_ns=self._since_ns,
            cluster=self._cluster,
            simulated=simulated,
        ):
            part = home.get(finding.node, first) if finding.node is not None else first
            self._take(part, rule, [finding])
        forget_ns = int(rule.number("forget_s") * 1e9)
        for node in [node for node, at in seen_ns.items() if now_ns - max(at, self._since_ns) > forget_ns]:
            for change in home[node].book.drop(node, now_ns):
                if change.rule in self._rules:
                    self._tell(home[node], self._rules[change.rule], change)
            home[node].forget(node)

    def _lag(self, now_ns: int) -> list[Finding]:
        telemetry, features = self._newest["telemetry"], self._newest["features"]
        if not telemetry or not features:
            return []
        lag_s = max(0.0, (telemetry - features) / 1e9)
        subject = f"cluster {self._cluster}"
        return [Finding(subject, now_ns, lag_s, {}, quality=self._newest_quality, window_start_ns=features)]


def _disagreements(rule: Rule, seen: alerts_wire.TelemetryUsed) -> list[Finding]:
    return measure.sensors(
        rule, node=seen.node, ts_ns=seen.ts_ns, quality=seen.quality, gpu_w=seen.gpu_w(), domain_w=seen.second_w()
    )


def _two_agents(rule: Rule, seen: alerts_wire.TelemetryUsed, part: PartitionState, now_ns: int) -> list[Finding]:
    """Returns of an earlier boot of a node; nothing for a node whose boots never alternated."""
    window_s = rule.number("window_s")
    count = part.boots.see(seen.node, seen.boot_id, now_ns, window_ns=int(window_s * 1e9))
    if count is None:
        return []
    evidence: dict[str, float | None] = {"boots": part.boots.boots(seen.node), "window_s": window_s}
    return [
        Finding(
            subject=seen.node,
            ts_ns=now_ns,
            value=float(count),
            evidence=evidence,
            node=seen.node,
            quality=seen.quality,
            window_start_ns=now_ns - int(window_s * 1e9),
        )
    ]
