"""The ledger's rules for one node: which command deserves a line, which answer belongs to it, when the line is closed.

A line is written per GPU when a command changed something for it (the first command seen counts as a change), when the
answer to an unchanged renewal has another status than the answer before, when the row's brake begins or ends, and when
the node expired, restored or left a GPU alone by itself. Renewals that change nothing leave no trace. No Kafka here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from streams.contract.records import (
    NO_CAPPER,
    SILENT_CAPPER,
    LedgerEntry,
    Mode,
    PowerApplied,
    PowerDesired,
    Quality,
)
from streams.jobs.ledger_window import NodeWindow

WINDOW_NS: Final = 20 * 10**9  # before the command and after the answer
PATIENCE_S: Final = 30.0  # beyond the window, when a node's samples stop
UNANSWERED: Final = "unanswered"
AGENTS_OWN: Final = frozenset({NO_CAPPER, SILENT_CAPPER})  # answers that the agent wrote itself
REMEMBER: Final = 3  # envelopes and early answers kept per node

Granted = tuple[int | None, int | None, float | None, bool, str]
Counter = tuple[int, int]


class Line(msgspec.Struct, array_like=True):
    """An open ledger line. `seen_s` is this process's monotonic clock and is not kept across a restart."""

    uuid: str
    epoch: int
    seq: int
    issued_at_ns: int
    mode: Mode
    strategy: str
    reason: str
    cause: tuple[str, ...]
    holdout: bool
    requested_limit_w: float | None
    max_sm_mhz: int | None
    power_before_w: float | None = None
    tbt_before_ms: float | None = None
    acked_ns: int | None = None
    status: str = UNANSWERED
    status_reason: str = ""
    effective_limit_w: float | None = None
    previous_limit_w: float | None = None
    effective_sm_mhz: int | None = None
    loop_ms: float | None = None
    quality: Quality = "measured"
    seen_s: float = 0.0


class NodeBook(msgspec.Struct):
    """What the ledger knows of a node; the part that a snapshot keeps. Its methods yield lines that are complete."""

    node: str
    cluster: str
    mark: Counter = (-1, -1)
    granted: dict[str, Granted] = {}
    status: dict[str, str] = {}
    answered: dict[str, int] = {}  # capper run -> newest ack_seq
    open: dict[str, Line] = {}
    commands: list[PowerDesired] = []
    early: list[PowerApplied] = []

    def command(self, command: PowerDesired, window: NodeWindow, now_s: float) -> Iterator[LedgerEntry]:
        """An envelope: opens lines for the GPUs for which it changes something."""
        if (command.epoch, command.seq) <= self.mark:
            return
        self.mark = (command.epoch, command.seq)
        self.commands = [*self.commands, command][-REMEMBER:]
        for i, uuid in enumerate(command.gpu.uuid):
            grant = granted_of(command, i)
            if self.granted.get(uuid) != grant:
                self.granted[uuid] = grant
                yield from self._supersede(uuid, command, window)
                self.open[uuid] = _line(command, i, window, now_s)
        for ack in [a for a in self.early if (a.epoch, a.seq) == self.mark]:
            self.early.remove(ack)
            yield from self._answer(ack, window, now_s)

    def applied(self, ack: PowerApplied, window: NodeWindow, now_s: float) -> Iterator[LedgerEntry]:
        """An answer, or something that happened by itself; a repeated one is left out."""
        if ack.ack_seq <= self.answered.get(ack.capper_id, -1):
            return
        # A new capper run begins to count again; the old one is over. What the agent says itself ends no run.
        kept = {c: n for c, n in self.answered.items() if ack.capper_id in AGENTS_OWN or c in AGENTS_OWN}
        self.answered = kept | {ack.capper_id: ack.ack_seq}
        if ack.event != "command":
            yield from self._unasked(ack, window, now_s)
        elif (ack.epoch, ack.seq) > self.mark:
            self.early = [*self.early, ack][-REMEMBER:]  # the answer overtook its command
        else:
            yield from self._answer(ack, window, now_s)

    def _answer(self, ack: PowerApplied, window: NodeWindow, now_s: float) -> Iterator[LedgerEntry]:
        known = next((c for c in self.commands if (c.epoch, c.seq) == (ack.epoch, ack.seq)), None)
        for i, uuid in enumerate(ack.gpu.uuid):
            line = self.open.get(uuid)
            if line is not None and (line.epoch, line.seq) == (ack.epoch, ack.seq):
                _fill(line, ack, i, now_s)
            elif known is None or uuid not in known.gpu.uuid:
                continue  # the answer to a forged or long forgotten envelope says nothing about ours
            elif self.status.get(uuid) != _state(ack, i):
                yield from self._supersede(uuid, known, window)
                self.open[uuid] = line = _line(known, known.gpu.uuid.index(uuid), window, now_s)
                _fill(line, ack, i, now_s)
            self.status[uuid] = _state(ack, i)

    def _unasked(self, ack: PowerApplied, window: NodeWindow, now_s: float) -> Iterator[LedgerEntry]:
        for i, uuid in enumerate(ack.gpu.uuid):
            known = next((c for c in reversed(self.commands) if uuid in c.gpu.uuid), None)
            if (waiting := self.open.pop(uuid, None)) is not None:
                yield self._close(waiting, window)
            line = _bare(ack, uuid) if known is None else _line(known, known.gpu.uuid.index(uuid), window, now_s)
            line.issued_at_ns, line.epoch, line.seq = ack.ts_ns, ack.epoch, ack.seq
            line.power_before_w = window.mean_w(uuid, ack.ts_ns - WINDOW_NS, ack.ts_ns)
            line.tbt_before_ms = window.tbt_p99_ms(uuid, ack.ts_ns - WINDOW_NS, ack.ts_ns)
            _fill(line, ack, i, now_s)
            line.status_reason, line.loop_ms = f"{ack.event}: {ack.gpu.reason[i]}".rstrip(": "), None
            self.open[uuid] = line
            self.status[uuid] = _state(ack, i)
            self.granted.pop(uuid, None)  # whatever is granted next changes something again

    def _supersede(self, uuid: str, by: PowerDesired, window: NodeWindow) -> Iterator[LedgerEntry]:
        line = self.open.pop(uuid, None)
        if line is not None:
            if line.acked_ns is None:
                line.status_reason = f"replaced by {by.epoch}/{by.seq} before an answer came"
            yield self._close(line, window)

    def due(self, window: NodeWindow, now_s: float) -> Iterator[LedgerEntry]:
        """Lines whose effect window is over, or whose patience is."""
        for uuid, line in list(self.open.items()):
            waited_s = now_s - line.seen_s
            if line.acked_ns is None:
                over = waited_s >= WINDOW_NS / 1e9
                line.status_reason = f"no answer within {WINDOW_NS / 1e9:.0f} s" if over else ""
            else:
                over = window.newest_ns >= line.acked_ns + WINDOW_NS or waited_s >= WINDOW_NS / 1e9 + PATIENCE_S
            if over:
                del self.open[uuid]
                yield self._close(line, window)

    def measure(self, window: NodeWindow) -> bool:
        """Brings what open lines know of the time before their command up to date; false where power is still unknown.

        A snapshot must have it: after a restart those features are not read again.
        """
        for line in self.open.values():
            span = (line.issued_at_ns - WINDOW_NS, line.issued_at_ns)
            line.power_before_w = _known(window.mean_w(line.uuid, *span), line.power_before_w)
            line.tbt_before_ms = _known(window.tbt_p99_ms(line.uuid, *span), line.tbt_before_ms)
        return all(line.power_before_w is not None for line in self.open.values())

    def _close(self, line: Line, window: NodeWindow) -> LedgerEntry:
        issued = line.issued_at_ns
        before = _known(window.mean_w(line.uuid, issued - WINDOW_NS, issued), line.power_before_w)
        gaps = _known(window.tbt_p99_ms(line.uuid, issued - WINDOW_NS, issued), line.tbt_before_ms)
        after = gaps_after = None
        end = issued
        if line.acked_ns is not None:
            end = max(line.acked_ns, min(line.acked_ns + WINDOW_NS, window.newest_ns))
            after = window.mean_w(line.uuid, line.acked_ns, end)
            gaps_after = window.tbt_p99_ms(line.uuid, line.acked_ns, end)
        return LedgerEntry(
            cluster=self.cluster,
            node=self.node,
            gpu_uuid=line.uuid,
            epoch=line.epoch,
            seq=line.seq,
            issued_at_ns=issued,
            acked_ns=line.acked_ns,
            closed_ns=end,
            status=line.status,
            status_reason=line.status_reason,
            mode=line.mode,
            strategy=line.strategy,
            reason=line.reason,
            cause=line.cause,
            holdout=line.holdout,
            requested_limit_w=line.requested_limit_w,
            effective_limit_w=line.effective_limit_w,
            previous_limit_w=line.previous_limit_w,
            max_sm_mhz=line.max_sm_mhz,
            effective_sm_mhz=line.effective_sm_mhz,
            power_before_w=before,
            power_after_w=after,
            effect_w=None if before is None or after is None else after - before,
            tbt_p99_before_ms=gaps,
            tbt_p99_after_ms=gaps_after,
            loop_ms=line.loop_ms,
            quality=line.quality,
        )


def granted_of(command: PowerDesired, index: int) -> Granted:
    """What makes two envelopes the same for a GPU."""
    columns = command.gpu
    return (
        columns.min_sm_mhz[index],
        columns.max_sm_mhz[index],
        columns.max_power_w[index],
        columns.holdout[index],
        command.mode,
    )


def _known(first: float | None, second: float | None) -> float | None:
    return second if first is None else first


def _line(command: PowerDesired, index: int, window: NodeWindow, now_s: float) -> Line:
    columns, issued = command.gpu, command.issued_at_ns
    uuid = columns.uuid[index]
    return Line(
        uuid=uuid,
        epoch=command.epoch,
        seq=command.seq,
        issued_at_ns=issued,
        mode=command.mode,
        strategy=command.strategy,
        reason=columns.reason[index],
        cause=command.cause,
        holdout=columns.holdout[index],
        requested_limit_w=columns.max_power_w[index],
        max_sm_mhz=columns.max_sm_mhz[index],
        power_before_w=window.mean_w(uuid, issued - WINDOW_NS, issued),
        tbt_before_ms=window.tbt_p99_ms(uuid, issued - WINDOW_NS, issued),
        seen_s=now_s,
    )


def _bare(ack: PowerApplied, uuid: str) -> Line:
    """A line for something that happened without any command that we know."""
    return Line(
        uuid=uuid,
        epoch=ack.epoch,
        seq=ack.seq,
        issued_at_ns=ack.ts_ns,
        mode=ack.mode or "observe",
        strategy=ack.strategy or "",
        reason="",
        cause=(),
        holdout=False,
        requested_limit_w=None,
        max_sm_mhz=None,
    )


def _status(ack: PowerApplied, index: int) -> str:
    """What the answer says of a GPU. A capper that took the command and fell silent may have obeyed it."""
    return UNANSWERED if ack.capper_id == SILENT_CAPPER else ack.gpu.status[index]


def _state(ack: PowerApplied, index: int) -> str:
    """What makes two answers the same: a limit clamped by the row's brake is another matter than a clamped wish."""
    braked = ack.gpu.reason[index].startswith("brake: ")
    return f"{_status(ack, index)} braked" if braked else _status(ack, index)


def _fill(line: Line, ack: PowerApplied, index: int, now_s: float) -> None:
    columns = ack.gpu
    line.acked_ns, line.seen_s, line.quality = ack.ts_ns, now_s, ack.quality
    line.status, line.status_reason = _status(ack, index), columns.reason[index]
    line.effective_limit_w = columns.effective_limit_w[index]
    line.previous_limit_w = columns.previous_limit_w[index]
    line.effective_sm_mhz = columns.effective_sm_mhz[index]
    if ack.sample_ts_ns is not None and ack.capper_id not in AGENTS_OWN:  # nothing was read back there
        line.loop_ms = (ack.ts_ns - ack.sample_ts_ns) / 1e6
