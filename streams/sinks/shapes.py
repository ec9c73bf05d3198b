"""The bodies that receivers understand: our own, Slack's and Alertmanager's webhook. Values in, bytes out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from streams.contract.records import Alert
from streams.sinks.receivers import Shape

COLOURS: Final = {"info": "#439FE0", "warning": "#DAA038", "critical": "#A30200"}
SHOWN: Final = 10  # of many alerts in one Slack message
NEVER: Final = "0001-01-01T00:00:00Z"  # Alertmanager's "has not ended"
_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


def rfc3339(ns: int) -> str:
    """UTC, milliseconds."""
    seconds, rest_ns = divmod(ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest_ns // 10**6:03d}Z"


def body(shape: Shape, alerts: Sequence[Alert], receiver: str) -> bytes:
    """Alerts of one rule, group and state as the receiver's shape has them."""
    return msgspec.json.encode(_SHAPES[shape](alerts, receiver))


def _standard(alerts: Sequence[Alert], receiver: str) -> dict[str, Any]:
    (alert,) = alerts
    kind = f"energy.alert.{alert.state}"
    return {"type": kind, "timestamp": rfc3339(alert.ts_ns), "data": msgspec.to_builtins(alert)}


def _slack(alerts: Sequence[Alert], receiver: str) -> dict[str, Any]:
    first = alerts[0]
    text = f"{_title(first)}: {_escape(first.summary)}"
    more = len(alerts) - SHOWN
    if len(alerts) > 1:
        text = f"{_title(first)}: {len(alerts)} together" + (f", {SHOWN} shown" if more > 0 else "")
    return {"text": text, "attachments": [_attachment(alert) for alert in alerts[:SHOWN]]}


def _title(alert: Alert) -> str:
    return f"[{'RESOLVED' if alert.state == 'resolved' else alert.severity.upper()}] {alert.rule}"


def _attachment(alert: Alert) -> dict[str, Any]:
    ended = alert.state == "resolved"
    fields = [
        {"title": name, "value": _escape(text), "short": short}
        for name, text, short in (
            ("cluster", alert.cluster, True),
            ("node", alert.node or "", True),
            ("look", f"eo sql {alert.sql}" if re.fullmatch(r"\w+", alert.sql) else alert.sql, False),
            ("done", alert.action, False),
            ("undo", alert.undo, False),
            ("runbook", alert.runbook, False),
            ("data", alert.quality, True),
        )
        if text
    ]
    return {
        "color": "#2EB886" if ended else COLOURS[alert.severity],
        "title": _title(alert),
        "text": _escape(alert.summary),
        "fallback": f"{_title(alert)}: {_escape(alert.summary)}",
        "fields": fields,
        "ts": alert.ts_ns // 10**9,
    }


def _escape(text: str) -> str:
    """What Slack would read as markup: a node's name must not become a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels_of(alert: Alert) -> dict[str, str]:
    """Alertmanager's labels: what the alert is about. Two states of one alert have the same labels."""
    fixed = {
        "alertname": alert.rule,
        "severity": alert.severity,
        "cluster": alert.cluster,
        "group": alert.group,
        "node": alert.node or "",
        "gpu": alert.gpu_uuid or "" if alert.labels.get("subject") == alert.gpu_uuid else "",
        "quality": alert.quality,
    }
    more = {_LABEL.sub("_", name) or "_": text for name, text in alert.labels.items()}
    return {name: text for name, text in {**more, **fixed}.items() if text}


def annotations_of(alert: Alert) -> dict[str, str]:
    """Alertmanager's annotations: what to know and do."""
    numbers = ", ".join(f"{name} {value:g}" for name, value in alert.evidence.items() if value is not None)
    values = {
        "summary": alert.summary,
        "evidence": numbers,
        "runbook": alert.runbook,
        "sql": alert.sql,
        "action": alert.action,
        "undo": alert.undo,
        "alert_id": alert.alert_id,
    }
    return {name: text for name, text in values.items() if text}


def _alertmanager(alerts: Sequence[Alert], receiver: str) -> dict[str, Any]:
    entries = [_entry(alert) for alert in alerts]
    known, said = _common([one["labels"] for one in entries]), _common([one["annotations"] for one in entries])
    group = {name: known[name] for name in ("alertname", "cluster", "group") if name in known}
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f'{name}="{text}"' for name, text in group.items()) + "}",
        "truncatedAlerts": 0,
        "status": alerts[0].state,
        "receiver": receiver,
        "groupLabels": group,
        "commonLabels": known,
        "commonAnnotations": said,
        "externalURL": "",
        "alerts": entries,
    }


def _entry(alert: Alert) -> dict[str, Any]:
    return {
        "status": alert.state,
        "labels": labels_of(alert),
        "annotations": annotations_of(alert),
        "startsAt": rfc3339(alert.started_ns or alert.ts_ns),
        "endsAt": rfc3339(alert.ts_ns) if alert.state == "resolved" else NEVER,
        "generatorURL": "",
        "fingerprint": alert.alert_id,
    }


def _common(tables: Sequence[dict[str, str]]) -> dict[str, str]:
    """What all have in common."""
    return {name: text for name, text in tables[0].items() if all(one.get(name) == text for one in tables)}


_SHAPES: Final[dict[Shape, Callable[[Sequence[Alert], str], dict[str, Any]]]] = {
    "standard": _standard,
    "slack": _slack,
    "alertmanager": _alertmanager,
}
