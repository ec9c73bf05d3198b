"""The bodies that receivers understand: our own, Slack's and Alertmanager's webhook. Values in, bytes out."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import msgspec

from streams.contract.records import Alert
from streams.sinks.receivers import Shape

COLOURS: Final = {"info": "#439FE0", "warning": "#DAA038", "critical": "#A30200"}
NEVER: Final = "0001-01-01T00:00:00Z"  # Alertmanager's "has not ended"
_LABEL: Final = re.compile(r"[^a-zA-Z0-9_]")


def rfc3339(ns: int) -> str:
    """UTC, milliseconds."""
    seconds, rest_ns = divmod(ns, 10**9)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest_ns // 10**6:03d}Z"


def body(shape: Shape, alert: Alert, receiver: str) -> bytes:
    """One alert as the receiver's shape has it."""
    return msgspec.json.encode(_SHAPES[shape](alert, receiver))


def _standard(alert: Alert, receiver: str) -> dict[str, Any]:
    kind = f"energy.alert.{alert.state}"
    return {"type": kind, "timestamp": rfc3339(alert.ts_ns), "data": msgspec.to_builtins(alert)}


def _slack(alert: Alert, receiver: str) -> dict[str, Any]:
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
    title = f"[{'RESOLVED' if ended else alert.severity.upper()}] {alert.rule}"
    attachment = {
        "color": "#2EB886" if ended else COLOURS[alert.severity],
        "title": title,
        "text": _escape(alert.summary),
        "fallback": f"{title}: {_escape(alert.summary)}",
        "fields": fields,
        "ts": alert.ts_ns // 10**9,
    }
    return {"text": f"{title}: {_escape(alert.summary)}", "attachments": [attachment]}


def _escape(text: str) -> str:
    """What Slack would read as markup: a node's name must not become a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def labels(alert: Alert) -> dict[str, str]:
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


def annotations(alert: Alert) -> dict[str, str]:
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


def _alertmanager(alert: Alert, receiver: str) -> dict[str, Any]:
    started = rfc3339(alert.started_ns or alert.ts_ns)
    ended = rfc3339(alert.ts_ns) if alert.state == "resolved" else NEVER
    known = labels(alert)
    group = {name: known[name] for name in ("alertname", "cluster") if name in known}
    one = {
        "status": alert.state,
        "labels": known,
        "annotations": annotations(alert),
        "startsAt": started,
        "endsAt": ended,
        "generatorURL": "",
        "fingerprint": alert.alert_id,
    }
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f'{name}="{text}"' for name, text in group.items()) + "}",
        "truncatedAlerts": 0,
        "status": alert.state,
        "receiver": receiver,
        "groupLabels": group,
        "commonLabels": known,
        "commonAnnotations": one["annotations"],
        "externalURL": "",
        "alerts": [one],
    }


_SHAPES: Final[dict[Shape, Callable[[Alert, str], dict[str, Any]]]] = {
    "standard": _standard,
    "slack": _slack,
    "alertmanager": _alertmanager,
}
