"""Acknowledgements and verdicts as findings: what a single report proves."""

from __future__ import annotations

from collections.abc import Iterator

from models.alerts.life import Book, Finding
from models.alerts.rule import Rule
from streams.contract.records import AnomalyVerdict, PowerApplied


def acknowledged(rule: Rule, ack: PowerApplied, book: Book) -> Iterator[Finding]:
    """What one acknowledgement says to a rule of kind event: bad news of its own kind, or good news of an open one."""
    rows = list(zip(ack.gpu.uuid, ack.gpu.status, ack.gpu.reason, strict=True))
    bad = [row for row in rows if _matches(rule, ack.event, status=row[1], reason=row[2])]
    if rule.number("by_node"):
        if bad:
            told = bad[0][2] or bad[0][1]
            yield _finding(ack, ack.node, told, over=True, gpus=len(bad))
        return
    for uuid, _, reason in bad:
        yield _finding(ack, uuid, reason, over=True, gpu_uuid=uuid)
    for uuid, status, reason in rows:
        if status in rule.words("clear_statuses") and book.is_open(rule, uuid):
            yield _finding(ack, uuid, reason or status, over=False, gpu_uuid=uuid)


def _matches(rule: Rule, event: str, *, status: str, reason: str) -> bool:
    statuses = rule.words("statuses")
    return (
        event in rule.words("events")
        and (not statuses or status in statuses)
        and (not rule.words("reasons") or any(word in reason for word in rule.words("reasons")))
        and not any(known in reason for known in rule.words("ignore_reasons"))
    )


def _finding(
    ack: PowerApplied, subject: str, reason: str, *, over: bool, gpus: int = 1, gpu_uuid: str | None = None
) -> Finding:
    evidence: dict[str, float | None] = {"gpus": float(gpus)}
    if gpu_uuid is not None:
        at = ack.gpu.uuid.index(gpu_uuid)
        evidence |= {
            "effective_limit_w": ack.gpu.effective_limit_w[at],
            "previous_limit_w": ack.gpu.previous_limit_w[at],
            "requested_limit_w": ack.gpu.requested_limit_w[at],
        }
    return Finding(
        subject=subject,
        ts_ns=ack.ts_ns,
        value=None,
        over=over,
        evidence=evidence,
        node=ack.node,
        gpu_uuid=gpu_uuid,
        labels={"event": ack.event},
        quality=ack.quality,
        window_start_ns=ack.ts_ns,
        reason=reason[:300],
    )


def judged(verdict: AnomalyVerdict) -> Finding:
    """A verdict of the anomaly job."""
    return Finding(
        subject=f"{verdict.metric} of {verdict.gpu_uuid}",
        ts_ns=verdict.ts_ns,
        value=verdict.score,
        over=True,
        evidence={"bound": verdict.threshold, **verdict.evidence},
        node=verdict.node,
        gpu_uuid=verdict.gpu_uuid,
        labels={"metric": verdict.metric, "model": verdict.model, "verdict_action": verdict.action},
        quality=verdict.quality,
        window_start_ns=verdict.window_start_ns,
    )
