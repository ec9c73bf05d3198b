"""The p99 of the controlled group against the bound that the strategy gives it, for the rule on latency.

The same rolling histograms and the same test of significance as the policy's own guard: the alert says what the policy
sees. Which engines are the hold-out is read from the envelopes; before the first one the hash of their names decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from models.alerts.life import Finding, Quality
from models.alerts.rule import Rule
from models.policy import guard
from models.policy.strategies import Metric, Strategy
from streams.contract.records import EngineReading, Histogram
from streams.jobs.actuation_latency import MIN_SAMPLES, TRAINING, WORDS, Group, Pool, RollingCounts


class LatencyWatch:
    """Rolling counts of every pool and group of this worker. One rule's window and metrics."""

    def __init__(self, rule: Rule, strategy: Strategy) -> None:
        self.rule, self.strategy = rule, strategy
        self.metrics: Sequence[Metric] = [m for m in MIN_SAMPLES if m in rule.words("metrics")]
        self._counts: dict[tuple[Pool, Metric], dict[Group, RollingCounts]] = {}
        self._quality: dict[Pool, Quality] = {}

    def add(self, ts_ns: int, group: Group, engine: EngineReading, quality: Quality) -> None:
        """Takes one reading in; histograms of another scale than the contract's default are left out."""
        if engine.kind == TRAINING:
            return
        pool = Pool(engine.stack, engine.workload)
        self._quality[pool] = quality
        for metric in self.metrics:
            new: Histogram | None = getattr(engine, metric)
            if new is None or not new.index or new.scale != 5:
                continue
            groups = self._counts.setdefault((pool, metric), {})
            if group not in groups:
                groups[group] = RollingCounts(self.rule.number("window_s"))
            groups[group].add(ts_ns / 1e9, new)

    def findings(self, now_ns: int) -> Iterator[Finding]:
        """One finding per pool and metric; value None while the controlled group or the bound is not known."""
        for (pool, metric), groups in sorted(self._counts.items()):
            for counts in groups.values():
                counts.trim(now_ns / 1e9)
            yield self._finding(pool, metric, groups, now_ns)
        gone = [key for key, groups in self._counts.items() if not any(c.samples for c in groups.values())]
        for key in gone:
            del self._counts[key]

    def _finding(self, pool: Pool, metric: Metric, groups: dict[Group, RollingCounts], now_ns: int) -> Finding:
        ours, theirs = groups.get("controlled"), groups.get("holdout")
        least = MIN_SAMPLES[metric]
        p99 = ours.p99() if ours is not None and ours.samples >= least else None
        reference = theirs.p99() if theirs is not None and theirs.samples >= least else None
        bound = self.strategy.bound(metric).limit_ms(reference)
        over: bool | None = None
        if ours is not None and p99 is not None and bound is not None:
            bound *= 1.0 + self.rule.number("margin_ratio")
            beside = theirs.samples if theirs is not None and theirs.samples else ours.samples
            over = p99 > bound and guard.exceeds(ours.above(bound), ours.samples, beside)
        return Finding(
            subject=f"{WORDS[metric]} of {pool.stack} under {pool.workload}",
            ts_ns=now_ns,
            value=p99 if over is not None else None,
            over=over,
            evidence={
                "p99_ms": p99,
                "bound_ms": bound,
                "holdout_p99_ms": reference,
                "samples": float(ours.samples if ours is not None else 0),
                "holdout_samples": float(theirs.samples if theirs is not None else 0),
            },
            labels={"stack": pool.stack, "workload": pool.workload, "metric": metric},
            quality=self._quality[pool],
            window_start_ns=now_ns - int(self.rule.number("window_s") * 1e9),
        )
