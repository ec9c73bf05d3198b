"""From a change of an alert's state to the record that everybody reads."""

from __future__ import annotations

from models.alerts.life import Change, alert_id
from models.alerts.rule import Rule, render
from streams.contract.records import Alert


def to_alert(cluster: str, rule: Rule, change: Change) -> Alert:
    """The alert with its evidence, the question that shows it, what was done and how to undo it."""
    finding = change.finding
    # Whoever is woken by it reads the sentence first: it must not take a twin for a machine.
    said = "SIMULATED: " if finding.quality == "simulated" else ""
    text = render(rule, finding.subject, finding.value, finding.evidence, finding.reason)
    value = {"value": finding.value} if finding.value is not None else {}
    return Alert(
        cluster=cluster,
        node=finding.node,
        alert_id=alert_id(cluster, rule.name, finding.subject, change.started_ns),
        rule=rule.name,
        severity=rule.severity,
        state=change.state,
        ts_ns=finding.ts_ns,
        summary=said + (text if change.state == "firing" else f"resolved ({change.why}): {text}"),
        evidence={**value, **finding.evidence},
        runbook=rule.runbook,
        gpu_uuid=finding.gpu_uuid,
        started_ns=change.started_ns,
        window_start_ns=min(change.started_ns, finding.window_start_ns or change.started_ns),
        window_end_ns=finding.ts_ns,
        threshold=rule.threshold,
        group=rule.group or rule.name,
        sql=rule.sql,
        action=rule.action,
        undo=rule.undo,
        quality=finding.quality,
        labels={"subject": finding.subject, **finding.labels},
    )
