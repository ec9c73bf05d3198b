"""Alerts on their way out, on disk: what a receiver has not got yet survives kill -9, and so does the log of tries.

SQLite with a full fsync per transaction. Rows leave in order for each alert: a resolution never overtakes its firing.
It sends nothing itself.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streams.contract import codec
from streams.contract.records import Alert
from streams.sinks.receivers import Receiver
from streams.sinks.silences import Silence

KEPT_S: Final = 7 * 86400.0  # of what was delivered or muted
DEAD_KEPT_S: Final = 30 * 86400.0
RESOLVED_KEPT_S: Final = 900.0  # a resolution is repeated to Alertmanager this long, as Prometheus does
TOO_OLD_S: Final = 86400.0  # an alert of yesterday is no news: it is kept in the topic and told to nobody
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS alert (
    order_key TEXT PRIMARY KEY, alert_id TEXT NOT NULL, state TEXT NOT NULL, ts_ns INTEGER NOT NULL,
    changed_s REAL NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, webhook_id TEXT NOT NULL, order_key TEXT NOT NULL,
    alert_id TEXT NOT NULL, state TEXT NOT NULL, rule TEXT NOT NULL, created_s REAL NOT NULL, next_s REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL, ended_s REAL, record BLOB NOT NULL,
    UNIQUE (receiver, webhook_id));
CREATE INDEX IF NOT EXISTS waiting ON delivery (receiver, status, order_key, id);
CREATE TABLE IF NOT EXISTS attempt (
    delivery INTEGER NOT NULL, at_s REAL NOT NULL, answer INTEGER, detail TEXT NOT NULL, took_ms REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tries ON attempt (delivery, at_s);
"""
_COLUMNS: Final = (
    "id, receiver, webhook_id, alert_id, state, rule, created_s, next_s, attempts, status, ended_s, record"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one receiver. `status`: pending, delivered, dead or muted."""

    id: int
    receiver: str
    webhook_id: str
    alert_id: str
    state: str
    rule: str
    created_s: float
    next_s: float
    attempts: int
    status: str
    ended_s: float | None
    record: bytes

    @property
    def alert(self) -> Alert:
        return codec.decode(Alert, self.record)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try and its answer."""

    at_s: float
    answer: int | None
    detail: str
    took_ms: float


def order_key(alert: Alert) -> str:
    """What must stay in order: everything about one subject of one rule."""
    subject = alert.labels.get("subject") or alert.gpu_uuid or alert.node or alert.cluster
    return f"{alert.cluster}|{alert.rule}|{subject}"


def webhook_id(alert: Alert, receiver: str) -> str:
    """The idempotency key: the same for every try of the same news to the same receiver, also after a restart."""
    text = "\0".join((receiver, alert.cluster, alert.alert_id, alert.state))
    return "msg_" + hashlib.blake2b(text.encode(), digest_size=15).hexdigest()


class Outbox:
    """The file of deliveries. One instance per thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_TABLES)

    def close(self) -> None:
        self._db.close()

    # --- in ---

    def take(
        self, alerts: Iterable[Alert], receivers: Sequence[Receiver], silences: Sequence[Silence], *, now_s: float
    ) -> int:
        """Makes the messages of these alerts durable, in order, in one transaction; returns how many are new."""
        new = 0
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for alert in alerts:
                if not self._note(alert, now_s) or now_s - alert.ts_ns / 1e9 > TOO_OLD_S:
                    continue
                for receiver in receivers:
                    if receiver.wants(alert):
                        new += self._add(alert, receiver, silences, now_s)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return new

    def _note(self, alert: Alert, now_s: float) -> bool:
        """Keeps the newest state of each subject; False for news that is older than what is known, or the same."""
        key = order_key(alert)
        known = self._db.execute("SELECT alert_id, state, ts_ns FROM alert WHERE order_key = ?", (key,)).fetchone()
        if known is not None:
            same = (known[0], known[1]) == (alert.alert_id, alert.state)
            back = known[0] == alert.alert_id and known[1] == "resolved"
            if same or back or (known[2] > alert.ts_ns and known[0] != alert.alert_id):
                return False
        self._db.execute(
            "INSERT OR REPLACE INTO alert VALUES (?, ?, ?, ?, ?, ?)",
            (key, alert.alert_id, alert.state, alert.ts_ns, now_s, codec.encode(alert)),
        )
        return True

    def _add(self, alert: Alert, receiver: Receiver, silences: Sequence[Silence], now_s: float) -> int:
        status = "pending"
        if alert.state == "firing":
            if any(one.live(int(now_s * 1e9)) and one.matches(alert) for one in silences):
                status = "muted"
        elif self._was_muted(alert, receiver.name):
            status = "muted"  # nobody was told that it fired
        done = self._db.execute(
            "INSERT OR IGNORE INTO delivery (receiver, webhook_id, order_key, alert_id, state, rule, created_s, "
            "next_s, status, record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                receiver.name,
                webhook_id(alert, receiver.name),
                order_key(alert),
                alert.alert_id,
                alert.state,
                alert.rule,
                now_s,
                now_s,
                status,
                codec.encode(alert),
            ),
        )
        return done.rowcount

    def _was_muted(self, alert: Alert, receiver: str) -> bool:
        row = self._db.execute(
            "SELECT status FROM delivery WHERE receiver = ? AND alert_id = ? AND state = 'firing'",
            (receiver, alert.alert_id),
        ).fetchone()
        return row is not None and row[0] == "muted"

    def unmute(self, silences: Sequence[Silence], *, now_s: float) -> int:
        """Messages whose silence has ended while their alert still fires: they are told now. Returns how many."""
        rows = self._db.execute(
            "SELECT d.id, d.record FROM delivery d JOIN alert a ON a.alert_id = d.alert_id AND a.state = 'firing' "
            "WHERE d.status = 'muted' AND d.state = 'firing'"
        ).fetchall()
        live = [one for one in silences if one.live(int(now_s * 1e9))]
        due = [row for row, record in rows if not any(one.matches(codec.decode(Alert, record)) for one in live)]
        for row in due:
            self._db.execute("UPDATE delivery SET status = 'pending', next_s = ? WHERE id = ?", (now_s, row))
        return len(due)

    # --- out ---

    def next(self, receiver: str, now_s: float) -> Delivery | None:
        """The oldest message that is due and not behind another of the same subject."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM delivery d WHERE receiver = ? AND status = 'pending' AND next_s <= ? "
            "AND NOT EXISTS (SELECT 1 FROM delivery e WHERE e.receiver = d.receiver AND e.status = 'pending' "
            "AND e.order_key = d.order_key AND e.id < d.id) ORDER BY id LIMIT 1",
            (receiver, now_s),
        ).fetchone()
        return None if row is None else Delivery(*row)

    def record(
        self, delivery: Delivery, attempt: Attempt, *, status: str, next_s: float, ended_s: float | None
    ) -> None:
        """One try and what follows from it, in one transaction."""
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(
            "INSERT INTO attempt VALUES (?, ?, ?, ?, ?)",
            (delivery.id, attempt.at_s, attempt.answer, attempt.detail, attempt.took_ms),
        )
        self._db.execute(
            "UPDATE delivery SET attempts = attempts + 1, status = ?, next_s = ?, ended_s = ? WHERE id = ?",
            (status, next_s, ended_s, delivery.id),
        )
        self._db.execute("COMMIT")

    def due_s(self, receiver: str) -> float | None:
        """When the next message of a receiver is due; None when nothing waits."""
        row = self._db.execute(
            "SELECT min(next_s) FROM delivery WHERE receiver = ? AND status = 'pending'", (receiver,)
        ).fetchone()
        return None if row is None or row[0] is None else float(row[0])

    def replay(self, numbers: Sequence[int], *, now_s: float) -> int:
        """Sends messages again, whatever became of them; returns how many there are."""
        marks = ", ".join("?" for _ in numbers)
        return self._db.execute(
            f"UPDATE delivery SET status = 'pending', next_s = ?, created_s = ?, ended_s = NULL WHERE id IN ({marks})",
            (now_s, now_s, *numbers),
        ).rowcount

    # --- what is known ---

    def alerts(self, now_s: float) -> list[Alert]:
        """Alerts that fire, and those resolved lately: what Alertmanager is told again and again."""
        rows = self._db.execute(
            "SELECT record FROM alert WHERE state = 'firing' OR changed_s > ? ORDER BY order_key",
            (now_s - RESOLVED_KEPT_S,),
        )
        return [codec.decode(Alert, row[0]) for row in rows]

    def deliveries(self, *, limit: int, receiver: str | None = None, status: str | None = None) -> list[Delivery]:
        """The newest messages first."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM delivery WHERE (?1 IS NULL OR receiver = ?1) AND (?2 IS NULL OR status = ?2) "
            "ORDER BY id DESC LIMIT ?3",
            (receiver, status, limit),
        )
        return [Delivery(*row) for row in rows]

    def attempts(self, number: int) -> list[Attempt]:
        """Every try of a message, oldest first."""
        rows = self._db.execute(
            "SELECT at_s, answer, detail, took_ms FROM attempt WHERE delivery = ? ORDER BY at_s", (number,)
        )
        return [Attempt(*row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Messages by status."""
        return dict(self._db.execute("SELECT status, count(*) FROM delivery GROUP BY status").fetchall())

    def prune(self, now_s: float) -> None:
        """Forgets what is over and old; what waits is never forgotten."""
        old = "status IN ('delivered', 'muted') AND created_s < ?1 OR status = 'dead' AND created_s < ?2"
        bounds = (now_s - KEPT_S, now_s - DEAD_KEPT_S)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(f"DELETE FROM attempt WHERE delivery IN (SELECT id FROM delivery WHERE {old})", bounds)
        self._db.execute(f"DELETE FROM delivery WHERE {old}", bounds)
        self._db.execute("DELETE FROM alert WHERE state = 'resolved' AND changed_s < ?", (now_s - KEPT_S,))
        self._db.execute("COMMIT")
