"""The anomaly job: features in, verdicts with evidence out. A verdict may freeze or alert; it can never lower anything.

Three detectors: robust z-scores of every GPU (vectorised), River's half-space trees per GPU model and workload class on
a bounded number of rows a second, and River's efficiency regression per stack. Each node is judged every few seconds;
each exceedance must be confirmed k times of n; after a verdict the same fault is silent for a while. The same evidence
gives the same verdict id.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from models.anomaly.confirm import verdict_id
from models.anomaly.half_space import ALONE, BESIDE_PEERS, Forest
from models.anomaly.metrics import METRICS, Action
from models.efficiency import regression
from models.efficiency.model_drift import STAYED_S, ModelDrift
from models.efficiency.regression import EfficiencyRegression
from streams.contract.records import AnomalyVerdict, EngineReading, NodeFeatures
from streams.contract.topics import FEATURES, Topic
from streams.jobs.anomaly_batch import Batch
from streams.jobs.anomaly_state import VERSION, EngineCounters, PartitionState, Saved
from streams.jobs.base import ConsumerRecord, JobContext, Outcome
from streams.jobs.decode import ours
from streams.observe.trace import traced
from streams.transport import FetchTuning

NAME: Final = "anomaly"
MODEL_VERSION: Final = "1"
EVERY_NS: Final = 5 * 10**9  # each node is judged this often, by its own time
ROWS_PER_S: Final = 100.0  # half-space rows a second over all partitions: 25 us each
PRUNE_S: Final = 60.0


class AnomalyJob:
    """Implements streams.jobs.base.Job."""

    name = NAME
    topics: tuple[Topic, ...] = (FEATURES,)
    # A verdict may be half a second late; two fetches a second instead of twenty spare job and broker.
    fetch: Final = FetchTuning(max_wait_ms=500, min_bytes=4_000_000)

    def start(self, ctx: JobContext) -> None:
        self._ctx = ctx
        self._parts: dict[int, PartitionState] = {}
        self._allowance, self._allowed_at_s, self._pruned_at_s = ROWS_PER_S, ctx.monotonic(), ctx.monotonic()

    def assign(self, partitions: frozenset[int]) -> None:
        """Recovers models and baselines."""
        for number in sorted(partitions):
            self._parts[number] = self._recover(number)

    def _recover(self, number: int) -> PartitionState:
        saved, part = self._ctx.state.load(NAME, number), PartitionState()
        if saved is None or saved.data_version != VERSION:
            return part
        try:
            part.recover(msgspec.json.decode(saved.data, type=Saved), self._ctx.wall_ns())
        except (msgspec.MsgspecError, ValueError) as error:
            # Without it the detectors warm up again and are silent meanwhile.
            self._ctx.log.warning("snapshot of partition %d is not usable (%s); starting without", number, error)
            return PartitionState()
        return part

    def revoke(self, partitions: frozenset[int]) -> None:
        for number in partitions & self._parts.keys():
            self._save(number, self._parts.pop(number))

    def stop(self) -> None:
        """Nothing is open besides what revoke has saved."""

    def process(self, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> Outcome:
        """Judges the nodes of a batch that are due, together."""
        part = self._parts[partition]
        part.offsets[topic.name] = records[-1].offset + 1
        with traced(self._ctx.tracing, "anomaly.judge", records):
            self._judge_all(part, topic, partition, records)
        return Outcome.ACK

    def _judge_all(self, part: PartitionState, topic: Topic, partition: int, records: Sequence[ConsumerRecord]) -> None:
        due: dict[str, NodeFeatures] = {}
        for record in records:
            features = ours(self._ctx, topic, partition, record, NodeFeatures, job=NAME)
            if features is None:
                continue
            self._tell(_by_model(part, features))
            if features.node in due:  # more than one window end of a node in a backlog: each is judged by itself
                self._judge(part, list(due.values()))
                due.clear()
            if features.window_end_ns >= part.judged_ns.get(features.node, 0) + EVERY_NS:
                part.judged_ns[features.node] = features.window_end_ns
                due[features.node] = features
        self._judge(part, list(due.values()))

    def _judge(self, part: PartitionState, nodes: Sequence[NodeFeatures]) -> None:
        if not nodes:
            return
        part.changed = True
        # A node's clock that runs ahead must not make every other node look gone.
        newest_ns = min(max(node.window_end_ns for node in nodes), self._ctx.wall_ns())
        part.newest_ns = max(part.newest_ns, newest_ns)
        batch = Batch(nodes)
        self._tell((*_by_past(part, batch), *self._by_forest(part, batch), *_by_work(part, nodes)))

    def _tell(self, verdicts: Iterable[AnomalyVerdict]) -> None:
        for verdict in verdicts:
            self._ctx.log.info("verdict %s: %s on %s", verdict.verdict_id, verdict.metric, verdict.gpu_uuid)
            self._ctx.publisher.send(verdict, verdict.node, source=NAME)

    # --- half-space trees, within their allowance ---

    def _by_forest(self, part: PartitionState, batch: Batch) -> Iterator[AnomalyVerdict]:
        self._refill()
        suspects = set(part.rare.suspects())
        beside, alone = batch.beside_peers(), batch.alone()
        has_peers: list[bool] = np.isfinite(beside).all(axis=1).tolist()  # type: ignore[assignment]  # one axis left
        known: list[bool] = np.isfinite(alone).all(axis=1).tolist()  # type: ignore[assignment]
        # Suspects first, then whoever comes: a fair share over time, because nodes come in another order each time.
        for row in sorted(range(len(batch.owner)), key=lambda r: uuid_of(batch, r) not in suspects):
            if self._allowance < 1.0:
                return
            if has_peers[row] or (known[row] and batch.engine[row] is None):
                self._allowance -= 1.0
                limits, values = (BESIDE_PEERS, beside[row]) if has_peers[row] else (ALONE, alone[row])
                yield from _rare(part, batch, row, limits, dict(zip(limits, values.tolist(), strict=True)))

    def _refill(self) -> None:
        now_s = self._ctx.monotonic()
        earned = (now_s - self._allowed_at_s) * ROWS_PER_S
        self._allowance, self._allowed_at_s = min(self._allowance + earned, 5 * ROWS_PER_S), now_s

    # --- time ---

    def tick(self) -> Iterable[tuple[str, int, int]]:
        prune = self._ctx.monotonic() - self._pruned_at_s >= PRUNE_S
        for number, part in self._parts.items():
            if prune:
                part.prune()
            if part.changed and self._ctx.state.due(NAME, number):
                self._save(number, part)
        if prune:
            self._pruned_at_s = self._ctx.monotonic()
        return ()

    def _save(self, number: int, part: PartitionState) -> None:
        self._ctx.state.save(NAME, number, part.saved(), part.offsets, VERSION)
        part.changed = False


def _by_past(part: PartitionState, batch: Batch) -> Iterator[AnomalyVerdict]:
    """Robust z-scores of all GPUs of the batch at once."""
    rows = np.concatenate([part.rows(node.uuid, part.newest_ns) for node in batch.nodes])
    values = batch.metrics()
    z, confirmed = part.robust.update(rows, values)
    for row, column in np.argwhere(confirmed).tolist():
        (node, i), metric = batch.owner[row], METRICS[column]
        evidence = {"value": float(values[row, column]), metric.feature: _value(node, metric.feature, i)}
        yield from _verdict(
            part,
            node,
            node.uuid[i],
            metric=metric.name,
            score=float(z[row, column]),
            threshold=part.robust.threshold,
            model="robust_z",
            action=metric.action,
            evidence=evidence,
        )


def _rare(
    part: PartitionState, batch: Batch, row: int, limits: Mapping[str, tuple[float, float]], inputs: dict[str, float]
) -> Iterator[AnomalyVerdict]:
    node, i = batch.owner[row]
    name = batch.class_of(row)
    forest = part.forests.setdefault(name, Forest(limits))
    score = forest.score(inputs)
    if part.rare.hit(node.uuid[i], score > forest.threshold):
        yield from _verdict(
            part,
            node,
            node.uuid[i],
            metric="rare_combination",
            score=score,
            threshold=forest.threshold,
            model="half_space_trees",
            action="alert",
            evidence=dict(inputs),
        )


def uuid_of(batch: Batch, row: int) -> str:
    """The GPU of a row."""
    node, i = batch.owner[row]
    return node.uuid[i]


def _by_work(part: PartitionState, nodes: Sequence[NodeFeatures]) -> Iterator[AnomalyVerdict]:
    """The efficiency regression of each engine's stack."""
    for node in nodes:
        for engine in node.engines:
            rates = _rates(part, engine)
            at = [node.uuid.index(u) for u in engine.gpu_uuid if u in node.uuid]
            watts, x = _mean(node, "power_w_mean_60s", at), _work(node, engine, at, rates)
            if watts is None or x is None:
                continue
            model = part.regressions.setdefault(engine.stack, EfficiencyRegression())
            seen = model.observe(x, watts)
            score = seen.score or 0.0
            over = part.strange.hit(engine.engine, abs(score) > regression.THRESHOLD)
            if over or seen.drifted:
                yield from _verdict(
                    part,
                    node,
                    engine.gpu_uuid[0],
                    metric="power_w_drift" if seen.drifted else "power_w_for_work",
                    score=score,
                    threshold=regression.THRESHOLD,
                    model="efficiency_regression",
                    action="alert",
                    evidence={"power_w": watts, "predicted_w": seen.predicted_w, **x},
                )


def _by_model(part: PartitionState, node: NodeFeatures) -> Iterator[AnomalyVerdict]:
    """Controllers that go on missing what their engines do: every GPU of the engine is frozen at default clocks.

    The score is the mean error in per cent.
    Each record counts, because errors come once a second and a drift is worth little after a minute.
    """
    for engine in node.engines:
        seen = engine.control
        if seen is None or seen.time_error_ratio is None:
            continue
        found = part.drifts.setdefault(engine.engine, ModelDrift()).observe(
            seen.time_error_ratio, node.window_end_ns / 1e9
        )
        if found is None or not part.drifting.speak(engine.engine, node.window_end_ns):
            continue
        evidence = {
            "time_error_ratio": seen.time_error_ratio,
            "decode_ratio": seen.decode_ratio,
            "prefill_ratio": seen.prefill_ratio,
        }
        for uuid in engine.gpu_uuid:
            yield _made(
                node, uuid, metric="model_drift", score=100.0 * found.score, threshold=100.0 * found.threshold,
                model="adwin", action="freeze", evidence=evidence, began_ns=node.window_end_ns - int(STAYED_S * 1e9),
            )  # fmt: skip


def _rates(part: PartitionState, engine: EngineReading) -> tuple[float, float] | None:
    """Generated and prompt tokens per second since the last reading; None without one or after a counter's reset."""
    if engine.generation_tokens_total is None or engine.prompt_tokens_total is None:
        return None
    now = EngineCounters(engine.ts_ns, engine.generation_tokens_total, engine.prompt_tokens_total)
    before, part.counters[engine.engine] = part.counters.get(engine.engine), now
    if before is None or now.ts_ns <= before.ts_ns:
        return None
    seconds = (now.ts_ns - before.ts_ns) / 1e9
    made, read = now.generation - before.generation, now.prompt - before.prompt
    return (made / seconds, read / seconds) if made >= 0 and read >= 0 else None


def _work(
    node: NodeFeatures, engine: EngineReading, at: Sequence[int], rates: tuple[float, float] | None
) -> dict[str, float] | None:
    util, mhz = _mean(node, "util_ratio_mean_60s", at), _mean(node, "sm_mhz_mean_60s", at)
    if rates is None or engine.running is None or util is None or mhz is None:
        return None
    values = (rates[0], rates[1], float(engine.running), util, mhz / 1e3)
    return dict(zip(regression.INPUTS, values, strict=True))


def _engine_of(node: NodeFeatures, i: int) -> EngineReading | None:
    return next((e for e in node.engines if node.uuid[i] in e.gpu_uuid), None)


def _value(node: NodeFeatures, feature: str, i: int) -> float | None:
    column = node.features.get(feature)
    return None if column is None else column[i]


def _mean(node: NodeFeatures, feature: str, at: Sequence[int]) -> float | None:
    known = [v for i in at if (v := _value(node, feature, i)) is not None]
    return sum(known) / len(known) if known and len(known) == len(at) else None


def _verdict(
    part: PartitionState,
    node: NodeFeatures,
    uuid: str,
    *,
    metric: str,
    score: float,
    threshold: float,
    model: str,
    action: Action,
    evidence: dict[str, float | None],
) -> Iterator[AnomalyVerdict]:
    """One verdict, unless the same fault spoke within the last minutes."""
    end = node.window_end_ns
    if part.silence.speak(f"{uuid}/{metric}", end):
        yield _made(
            node, uuid, metric=metric, score=score, threshold=threshold, model=model, action=action,
            evidence=evidence, began_ns=end - 5 * EVERY_NS,
        )  # fmt: skip


def _made(
    node: NodeFeatures,
    uuid: str,
    *,
    metric: str,
    score: float,
    threshold: float,
    model: str,
    action: Action,
    evidence: dict[str, float | None],
    began_ns: int,
) -> AnomalyVerdict:
    end = node.window_end_ns
    engine = _engine_of(node, node.uuid.index(uuid)) if uuid in node.uuid else None
    return AnomalyVerdict(
        cluster=node.cluster,
        node=node.node,
        verdict_id=verdict_id(node.cluster, node.node, uuid, metric, model, MODEL_VERSION, end),
        ts_ns=end,
        gpu_uuid=uuid,
        metric=metric,
        score=score,
        threshold=threshold,
        model=model,
        model_version=MODEL_VERSION,
        action=action,
        quality=node.quality,
        window_start_ns=began_ns,
        window_end_ns=end,
        evidence=evidence,
        gpu_name=node.name[node.uuid.index(uuid)] if node.name and uuid in node.uuid else None,
        workload=engine.workload if engine else None,
        stack=engine.stack if engine else None,
    )
