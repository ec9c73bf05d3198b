"""What the agent says unasked when a model stops predicting: the clocks of one engine went back to default, and why.

It is an acknowledgement of kind "restore" in the agent's own name (`capper_id` NO_CAPPER), because that is what
happened to the GPUs, and because every reader of the contract knows the kind.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

from agents.node.envelope import LiveEnvelope
from streams.contract.records import NO_CAPPER, AckColumns, AckStatus, NodeTelemetry, PowerApplied, Quality

log = logging.getLogger(__name__)
AGAIN_S: Final = 60.0  # one engine's drift is told once a minute, however often it recalibrates


class DriftWords:
    """What has to be said of the engines of a node, each once a minute at most."""

    def __init__(self, node: str, cluster: str) -> None:
        self._node, self._cluster = node, cluster
        self._waiting: dict[str, tuple[str, tuple[str, ...]]] = {}  # engine -> why and on which GPUs, not told yet
        self._told_s: dict[str, float] = {}

    def note(self, engine: str, reason: str, uuids: tuple[str, ...]) -> None:
        """An engine's model has just stopped predicting it."""
        self._waiting[engine] = (reason, uuids)

    def due(
        self,
        now_s: float,
        *,
        now_ns: int,
        locks: Mapping[str, int | None],
        live: LiveEnvelope | None,
        telemetry: NodeTelemetry | None,
    ) -> list[PowerApplied]:
        """What was noted since the last call and is not told too often."""
        waiting, self._waiting = self._waiting, {}
        out: list[PowerApplied] = []
        for name, (reason, uuids) in waiting.items():
            if now_s - self._told_s.get(name, -AGAIN_S) < AGAIN_S:
                continue
            self._told_s[name] = now_s
            log.warning("%s", reason)
            ack = of(
                reason,
                uuids,
                node=self._node,
                cluster=self._cluster,
                now_ns=now_ns,
                locks=locks,
                live=live,
                telemetry=telemetry,
            )
            out.append(ack)
        return out


def of(
    reason: str,
    uuids: Sequence[str],
    *,
    node: str,
    cluster: str,
    now_ns: int,
    locks: Mapping[str, int | None],
    live: LiveEnvelope | None,
    telemetry: NodeTelemetry | None,
) -> PowerApplied:
    """One engine's GPUs at default clocks; a lock that is still there makes it "refused", which another rule tells."""
    unknown = (None,) * len(uuids)
    effective = tuple(locks.get(uuid) for uuid in uuids)
    status: tuple[AckStatus, ...] = tuple("restored" if mhz is None else "refused" for mhz in effective)
    quality: Quality = "measured" if telemetry is None else telemetry.quality
    return PowerApplied(
        cluster=cluster,
        node=node,
        ts_ns=now_ns,
        event="restore",
        epoch=0 if live is None else live.epoch,
        seq=0 if live is None else live.seq,
        gpu=AckColumns(
            uuid=tuple(uuids),
            status=status,
            reason=tuple(_why(reason, mhz) for mhz in effective),
            requested_limit_w=unknown,
            effective_limit_w=unknown,
            previous_limit_w=unknown,
            requested_sm_mhz=unknown,
            effective_sm_mhz=effective,
            measured_w=_watts(uuids, telemetry),
        ),
        quality=quality,
        capper_id=NO_CAPPER,
        ack_seq=now_ns,  # no capper counted it; the time keeps it apart from others
        sample_ts_ns=None if telemetry is None else telemetry.ts_ns,
    )


def _why(reason: str, mhz: int | None) -> str:
    return reason if mhz is None else f"restore: the lock is still at {mhz} MHz; {reason}"


def _watts(uuids: Sequence[str], telemetry: NodeTelemetry | None) -> tuple[float | None, ...]:
    gpu = None if telemetry is None else telemetry.gpu
    if gpu is None or gpu.power_w is None:
        return (None,) * len(uuids)
    known = dict(zip(gpu.uuid, gpu.power_w, strict=True))
    return tuple(known.get(uuid) for uuid in uuids)
