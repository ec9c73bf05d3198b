"""Acknowledgements: what became of each GPU, with effective values read back from the device when they are written."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Literal

from agents.capper.actuators.errors import ActuatorError
from agents.capper.gpu import Row
from agents.capper.knob import Knob
from streams.contract.records import AckColumns, Mode, PowerApplied, PowerDesired, Quality

Event = Literal["command", "expiry", "restore", "foreign_change", "not_actuatable"]


def device_value(knob: Knob | None) -> float | None:
    """What the device says now; None = no lock, no such knob, or it cannot be read."""
    if knob is None:
        return None
    try:
        return knob.read()
    except ActuatorError:
        return None


def _measured(row: Row) -> float | None:
    knob = row.gpu and (row.gpu.power or row.gpu.clock)
    if not knob:
        return None
    try:
        return knob.actuator.measured_w(row.uuid)
    except ActuatorError:
        return None


def _previous(row: Row) -> float | None:
    if row.previous_w is None and row.gpu and row.gpu.power and row.gpu.power.claim:
        return row.gpu.power.claim.saved.previous
    return row.previous_w


def columns(rows: Sequence[Row]) -> AckColumns:
    """Rows as the record's columns, with the devices read now."""
    locks = [device_value(row.gpu.clock) if row.gpu else None for row in rows]
    return AckColumns(
        uuid=tuple(row.uuid for row in rows),
        status=tuple(row.status for row in rows),
        reason=tuple(row.reason for row in rows),
        requested_limit_w=tuple(row.limit_w for row in rows),
        effective_limit_w=tuple(device_value(row.gpu.power) if row.gpu else None for row in rows),
        previous_limit_w=tuple(_previous(row) for row in rows),
        requested_sm_mhz=tuple(row.sm_mhz for row in rows),
        effective_sm_mhz=tuple(None if lock is None else round(lock) for lock in locks),
        measured_w=tuple(_measured(row) for row in rows),
    )


class AckWriter:
    """Numbers the acknowledgements of one capper run."""

    def __init__(self, *, cluster: str, node: str, actuator: str, quality: Quality, wall_ns: Callable[[], int]) -> None:
        self._cluster, self._node, self._actuator, self._quality = cluster, node, actuator, quality
        self._wall_ns = wall_ns
        self._count = 0
        self.capper_id = uuid.uuid4().hex[:12]

    def command(self, rows: Sequence[Row], command: PowerDesired | None, received_ns: int) -> PowerApplied:
        """The answer to a command; without a proved command nothing that it claims is repeated as fact."""
        gpu, ts_ns = columns(rows), self._wall_ns()
        self._count += 1
        return PowerApplied(
            cluster=self._cluster,
            node=self._node,
            ts_ns=ts_ns,
            event="command",
            epoch=command.epoch if command else 0,
            seq=command.seq if command else 0,
            gpu=gpu,
            quality=self._quality,
            ack_seq=self._count,
            capper_id=self.capper_id,
            issued_at_ns=command.issued_at_ns if command else None,
            sample_ts_ns=command.sample_ts_ns if command else None,
            received_ns=received_ns,
            latency_ms=(ts_ns - received_ns) / 1e6 if ts_ns >= received_ns else None,
            actuator=self._actuator,
            mode=command.mode if command else None,
            strategy=command.strategy if command else None,
        )

    def event(
        self, event: Event, rows: Sequence[Row], mark: tuple[int, int], *, mode: Mode | None = None, strategy: str = ""
    ) -> PowerApplied:
        """What happened without a command."""
        self._count += 1
        return PowerApplied(
            cluster=self._cluster,
            node=self._node,
            event=event,
            epoch=max(mark[0], 0),
            seq=max(mark[1], 0),
            gpu=columns(rows),
            ts_ns=self._wall_ns(),
            quality=self._quality,
            ack_seq=self._count,
            capper_id=self.capper_id,
            actuator=self._actuator,
            mode=mode,
            strategy=strategy or None,
        )
