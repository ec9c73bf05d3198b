"""The rule on CO2: joules become grams by the factor of their hour, and grams are held against a budget.

No factor, no number: what was spent while none was known is not counted. It reads the factor file and tells nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.alerts.carbon import Budget, Factor, factor_at
from models.alerts.life import Finding
from models.alerts.rule import Rule
from streams.contract.records import Quality
from streams.errors import StreamsError
from streams.jobs import alerts_rules
from streams.jobs.alerts_wire import FeaturesUsed
from streams.jobs.base import JobContext
from streams.sinks import private_file


class CarbonWatch:
    """The factors of this place, taken up again when their file changes."""

    def __init__(self, ctx: JobContext, rules: Sequence[Rule], factors: Iterable[Factor]) -> None:
        self.rules = rules
        self._ctx, self._factors = ctx, list(factors)
        self._changed_ns = self._file_changed_ns()

    def reload(self) -> None:
        """Takes up a factor file that was replaced; a wrong one leaves what was known in force, and says so once."""
        settings, changed_ns = self._ctx.settings, self._file_changed_ns()
        if changed_ns == self._changed_ns or not self.rules:
            return
        self._changed_ns = changed_ns
        try:
            self._factors = list(alerts_rules.factors(settings.location, settings.carbon_factors)[0])
        except StreamsError as error:
            self._ctx.log.error("%s; going on with the factors known before", error)

    def _file_changed_ns(self) -> int:
        path = self._ctx.settings.carbon_factors
        return 0 if path is None else private_file.changed_ns(path)

    def spend(self, budget: Budget | None, seen: FeaturesUsed) -> None:
        """Adds a second's joules of a node to its partition's budget."""
        column = seen.features.energy_j_delta
        factor = factor_at(self._factors, seen.window_end_ns)
        if budget is not None and factor is not None and column is not None:
            joules = sum(value for value in column if value is not None)
            budget.add(seen.window_end_ns, joules, factor.g_per_kwh)

    def findings(self, rule: Rule, budgets: Sequence[Budget], now_ns: int, quality: Quality) -> list[Finding]:
        """What all partitions of this worker have spent; nothing before any features or without a factor."""
        factor = factor_at(self._factors, now_ns)
        if not now_ns or factor is None:
            return []
        for budget in budgets:
            budget.trim(now_ns)
        window_h = rule.number("window_h")
        kwh = sum(budget.total_kwh() for budget in budgets)
        evidence: dict[str, float | None] = {"energy_kwh": kwh, "g_per_kwh": factor.g_per_kwh, "window_h": window_h}
        return [
            Finding(
                subject=f"cluster {self._ctx.settings.cluster}",
                ts_ns=now_ns,
                value=sum(budget.total_g() for budget in budgets),
                evidence=evidence,
                labels={"location": factor.location, "factor_source": factor.source, "factor_kind": factor.kind},
                quality=quality,
                window_start_ns=now_ns - int(window_h * 3600e9),
            )
        ]
