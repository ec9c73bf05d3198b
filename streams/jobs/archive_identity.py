"""What makes a record the same record, in its own fields and in the archive's columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streams.contract import records as r
from streams.jobs.archive_marks import Identity
from streams.sinks import schemas as s


@dataclass(frozen=True, slots=True)
class Key:
    """The fields that identify a record, and the columns of the dataset that hold them."""

    dataset: s.Dataset
    fields: tuple[str, ...]
    columns: tuple[str, ...]

    def of(self, record: r.Record) -> Identity:
        return tuple(getattr(record, name) for name in self.fields)


# The time of issue belongs to it: where a broker's store was lost, epochs and numbers begin anew.
_COMMAND: Final = ("node", "epoch", "seq", "issued_at_ns")
_ACK: Final = ("node", "capper_id", "ack_seq", "ts_ns", "event")
KEYS: Final[dict[type[r.Record], Key]] = {
    r.AnomalyVerdict: Key(s.ANOMALY, ("verdict_id",), ("verdict_id",)),
    r.PowerDesired: Key(s.DESIRED, _COMMAND, ("node", "epoch", "seq", "ts_ns")),
    r.PowerApplied: Key(s.APPLIED, _ACK, _ACK),
    r.LedgerEntry: Key(s.LEDGER, (*_COMMAND, "gpu_uuid"), (*_COMMAND, "uuid")),
    r.OperatorIntent: Key(s.INTENT, ("intent_id",), ("intent_id",)),
    r.Alert: Key(s.ALERT, ("alert_id", "state", "ts_ns"), ("alert_id", "state", "ts_ns")),
}
