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

import msgspec

from streams.contract import codec
from streams.contract.records import Alert
from streams.errors import StreamsError
from streams.sinks.receivers import Receiver
from streams.sinks.silences import Silence

KEPT_S: Final = 7 * 86400.0  # of what was delivered or muted
DEAD_KEPT_S: Final = 30 * 86400.0
RESOLVED_KEPT_S: Final = 900.0  # a resolution is repeated to Alertmanager this long, as Prometheus does
TOO_OLD_S: Final = 86400.0  # an alert of yesterday is no news: it is kept in the topic and told to nobody
TOGETHER: Final = 50
BUNDLING: Final = frozenset({"slack", "alertmanager"})  # our own shape tells one alert at a time
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS alert (
    order_key TEXT PRIMARY KEY, alert_id TEXT NOT NULL, state TEXT NOT NULL, ts_ns INTEGER NOT NULL,
    changed_s REAL NOT NULL, record BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivery (
    id INTEGER PRIMARY KEY AUTOINCREMENT, receiver TEXT NOT NULL, webhook_id TEXT NOT NULL, alert_id TEXT NOT NULL,
    state TEXT NOT NULL, rule TEXT NOT NULL, created_s REAL NOT NULL, next_s REAL NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, status TEXT NOT NULL, ended_s REAL, record BLOB NOT NULL,
    UNIQUE (receiver, webhook_id));
CREATE INDEX IF NOT EXISTS waiting ON delivery (receiver, status, id);
CREATE TABLE IF NOT EXISTS subject (
    receiver TEXT NOT NULL, order_key TEXT NOT NULL, delivery INTEGER NOT NULL,
    PRIMARY KEY (receiver, order_key, delivery)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS about ON subject (delivery);
CREATE TABLE IF NOT EXISTS attempt (
    delivery INTEGER NOT NULL, at_s REAL NOT NULL, answer INTEGER, detail TEXT NOT NULL, took_ms REAL NOT NULL);
CREATE INDEX IF NOT EXISTS tries ON attempt (delivery, at_s);
CREATE TABLE IF NOT EXISTS tally (
    receiver TEXT NOT NULL, what TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (receiver, what)) WITHOUT ROWID;
"""
_COLUMNS: Final = (
    "id, receiver, webhook_id, alert_id, state, rule, created_s, next_s, attempts, status, ended_s, record"
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message for one receiver: an alert, or several of one group. `status`: pending, delivered, dead or muted."""

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
    def alerts(self) -> list[Alert]:
        return msgspec.json.decode(self.record, type=list[Alert])


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


def webhook_id(alerts: Sequence[Alert], receiver: str) -> str:
    """The idempotency key: the same for every try of the same news to the same receiver, also after a restart."""
    text = "\0".join((receiver, *(f"{one.cluster}/{one.alert_id}/{one.state}" for one in alerts)))
    return "msg_" + hashlib.blake2b(text.encode(), digest_size=15).hexdigest()


def bundled(alerts: Sequence[Alert]) -> list[list[Alert]]:
    """Alerts that are told together: of one rule, group and state, in the order in which they came.

    Two words on the same subject never share a message, nor does a later one come to stand in an earlier message.
    """
    out: list[list[Alert]] = []
    open_at: dict[tuple[str, str, str], list[Alert]] = {}
    about: set[str] = set()
    for alert in alerts:
        if order_key(alert) in about:
            open_at.clear()
            about.clear()
        kind = (alert.group, alert.rule, alert.state)
        if kind not in open_at or len(open_at[kind]) >= TOGETHER:
            open_at[kind] = []
            out.append(open_at[kind])
        open_at[kind].append(alert)
        about.add(order_key(alert))
    return out


class Outbox:
    """The file of deliveries. One instance per thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=30.0, isolation_level=None)
        path.chmod(0o600)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_TABLES)
        except sqlite3.OperationalError:  # busy or full: the caller tries again
            self._db.close()
            raise
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise StreamsError(
                f"{path} is damaged ({error}); put it back from a copy, or move it away: what waited in it is lost, "
                "the alerts themselves stay in the topic"
            ) from error

    def close(self) -> None:
        self._db.close()

    # --- in ---

    def take(
        self, alerts: Iterable[Alert], receivers: Sequence[Receiver], silences: Sequence[Silence], *, now_s: float
    ) -> int:
        """Makes the messages of these alerts durable, in order, in one transaction; returns how many are new."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            fresh = [one for one in alerts if self._note(one, now_s) and now_s - one.ts_ns / 1e9 <= TOO_OLD_S]
            new = sum(self._for(receiver, fresh, silences, now_s) for receiver in receivers)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return new

    def _for(self, receiver: Receiver, fresh: Sequence[Alert], silences: Sequence[Silence], now_s: float) -> int:
        wanted = [one for one in fresh if receiver.wants(one)]
        muted = [self._muted(one, receiver.name, silences, now_s) for one in wanted]
        quiet = [one for one, is_muted in zip(wanted, muted, strict=True) if is_muted]
        loud = [one for one, is_muted in zip(wanted, muted, strict=True) if not is_muted]
        bundles = bundled(loud) if receiver.shape in BUNDLING else [[one] for one in loud]
        new = sum(self._add([one], receiver.name, "muted", now_s) for one in quiet)
        return new + sum(self._add(bundle, receiver.name, "pending", now_s) for bundle in bundles)

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

    def _muted(self, alert: Alert, receiver: str, silences: Sequence[Silence], now_s: float) -> bool:
        if alert.state == "firing":
            return any(one.live(int(now_s * 1e9)) and one.matches(alert) for one in silences)
        return self._was_muted(alert, receiver)  # nobody was told that it fired

    def _add(self, alerts: Sequence[Alert], receiver: str, status: str, now_s: float) -> int:
        first = alerts[0]
        done = self._db.execute(
            "INSERT OR IGNORE INTO delivery (receiver, webhook_id, alert_id, state, rule, created_s, next_s, status, "
            "record) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                receiver,
                webhook_id(alerts, receiver),
                first.alert_id,
                first.state,
                first.rule,
                now_s,
                now_s,
                status,
                msgspec.json.encode(alerts),
            ),
        )
        if done.rowcount and done.lastrowid is not None:
            self._subjects(receiver, done.lastrowid, alerts)
        return done.rowcount

    def _subjects(self, receiver: str, number: int, alerts: Sequence[Alert]) -> None:
        rows = [(receiver, order_key(one), number) for one in alerts]
        self._db.executemany("INSERT OR IGNORE INTO subject VALUES (?, ?, ?)", rows)

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
        due = [
            row
            for row, record in rows
            if not any(one.matches(alert) for one in live for alert in msgspec.json.decode(record, type=list[Alert]))
        ]
        for row in due:
            self._db.execute("UPDATE delivery SET status = 'pending', next_s = ? WHERE id = ?", (now_s, row))
        return len(due)

    def mute(self, silences: Sequence[Silence], *, now_s: float) -> int:
        """Messages that wait although a silence covers all that they tell, and what would tell their end."""
        live = [one for one in silences if one.live(int(now_s * 1e9))]
        if not live:
            return 0
        rows = self._db.execute(
            "SELECT id, receiver, state, record FROM delivery WHERE status = 'pending' ORDER BY id"
        ).fetchall()
        quiet: set[tuple[str, str]] = set()
        done = 0
        for number, receiver, state, record in rows:
            alerts = msgspec.json.decode(record, type=list[Alert])
            ids = {(receiver, alert.alert_id) for alert in alerts}
            if state == "firing" and all(any(one.matches(alert) for one in live) for alert in alerts):
                quiet |= ids
            elif not (state == "resolved" and ids <= quiet):
                continue
            self._db.execute("UPDATE delivery SET status = 'muted' WHERE id = ? AND status = 'pending'", (number,))
            done += 1
        return done

    def withdraw(self, receiver: str, *, now_s: float) -> int:
        """What still waits for a receiver that is gone lies as dead letters: whoever gets its name is not told it."""
        waiting = [one.id for one in self.deliveries(limit=-1, receiver=receiver, status="pending")]
        for number in waiting:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO attempt VALUES (?, ?, NULL, 'the receiver was removed', 0)", (number, now_s))
            self._db.execute("UPDATE delivery SET status = 'dead', ended_s = ? WHERE id = ?", (now_s, number))
            self._db.execute("DELETE FROM subject WHERE delivery = ?", (number,))
            self._count(receiver, "dead")
            self._db.execute("COMMIT")
        return len(waiting)

    # --- out ---

    def next(self, receiver: str, now_s: float) -> Delivery | None:
        """The oldest message that is due and not behind another of the same subject."""
        row = self._db.execute(
            f"SELECT {_COLUMNS} FROM delivery d WHERE receiver = ? AND status = 'pending' AND next_s <= ? "
            "AND NOT EXISTS (SELECT 1 FROM subject mine JOIN subject other ON other.receiver = mine.receiver "
            "AND other.order_key = mine.order_key AND other.delivery < mine.delivery "
            "JOIN delivery e ON e.id = other.delivery AND e.status = 'pending' WHERE mine.delivery = d.id) "
            "ORDER BY id LIMIT 1",
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
        self._count(delivery.receiver, *(["retried"] if delivery.attempts else []), *([status] if ended_s else []))
        if status != "pending":
            self._db.execute("DELETE FROM subject WHERE delivery = ?", (delivery.id,))
        self._db.execute("COMMIT")

    def _count(self, receiver: str, *what: str) -> None:
        """Counts for ever: old messages are pruned, what was counted is not."""
        self._db.executemany(
            "INSERT INTO tally VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET count = count + 1",
            [(receiver, one) for one in what],
        )

    def due_s(self, receiver: str) -> float | None:
        """When the next message of a receiver is due; None when nothing waits."""
        row = self._db.execute(
            "SELECT min(next_s) FROM delivery WHERE receiver = ? AND status = 'pending'", (receiver,)
        ).fetchone()
        return None if row is None or row[0] is None else float(row[0])

    def replay(self, numbers: Sequence[int], *, now_s: float) -> int:
        """Sends messages again, whatever became of them; returns how many there are."""
        self._db.execute("BEGIN IMMEDIATE")
        done = 0
        for number in numbers:
            row = self._db.execute("SELECT receiver, record FROM delivery WHERE id = ?", (number,)).fetchone()
            if row is not None:
                self._subjects(row[0], number, msgspec.json.decode(row[1], type=list[Alert]))
                done += self._db.execute(
                    "UPDATE delivery SET status = 'pending', next_s = ?, created_s = ?, ended_s = NULL WHERE id = ?",
                    (now_s, now_s, number),
                ).rowcount
        self._db.execute("COMMIT")
        return done

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

    def backlog(self) -> dict[str, tuple[int, float]]:
        """What waits for each receiver: how many messages, and since when the oldest (seconds since 1970)."""
        rows = self._db.execute(
            "SELECT receiver, count(*), min(created_s) FROM delivery WHERE status = 'pending' GROUP BY receiver"
        )
        return {name: (count, since_s) for name, count, since_s in rows}

    def tally(self) -> dict[tuple[str, str], int]:
        """Messages delivered and dead, and tries after the first, by receiver, since the outbox was made."""
        return {(name, what): count for name, what, count in self._db.execute("SELECT * FROM tally")}

    def prune(self, now_s: float) -> None:
        """Forgets what is over and old; what waits is never forgotten."""
        old = "status IN ('delivered', 'muted') AND created_s < ?1 OR status = 'dead' AND created_s < ?2"
        bounds = (now_s - KEPT_S, now_s - DEAD_KEPT_S)
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(f"DELETE FROM attempt WHERE delivery IN (SELECT id FROM delivery WHERE {old})", bounds)
        self._db.execute(f"DELETE FROM subject WHERE delivery IN (SELECT id FROM delivery WHERE {old})", bounds)
        self._db.execute(f"DELETE FROM delivery WHERE {old}", bounds)
        self._db.execute("DELETE FROM alert WHERE state = 'resolved' AND changed_s < ?", (now_s - KEPT_S,))
        self._db.execute("COMMIT")
