"""The acknowledgement that the node agent writes itself when no capper answers: refused on every GPU, with a reason.

Its `capper_id` says what that is worth: NO_CAPPER = nobody took the command; SILENT_CAPPER = a capper took it and did
not answer, so that "refused" only says that nothing may be counted on.
"""

from __future__ import annotations

from streams.contract import codec
from streams.contract.errors import ContractError
from streams.contract.records import NO_CAPPER, SILENT_CAPPER, AckColumns, AckStatus, PowerApplied, PowerDesired


def of(raw: bytes, reason: str, *, node: str, cluster: str, now_ns: int, silent: bool = False) -> PowerApplied:
    """A refusal of a command that nobody verified; an unreadable command names no GPU."""
    try:
        desired: PowerDesired | None = codec.decode(PowerDesired, raw)
    except ContractError:
        desired = None
    uuids = () if desired is None else desired.gpu.uuid
    unknown = (None,) * len(uuids)
    refused: AckStatus = "refused"
    return PowerApplied(
        cluster=cluster,
        node=node,
        ts_ns=now_ns,
        event="command",
        epoch=0 if desired is None else desired.epoch,
        seq=0 if desired is None else desired.seq,
        gpu=AckColumns(
            uuid=uuids,
            status=(refused,) * len(uuids),
            reason=(reason,) * len(uuids),
            requested_limit_w=unknown if desired is None else desired.gpu.max_power_w,
            effective_limit_w=unknown,
            previous_limit_w=unknown,
            requested_sm_mhz=unknown,
            effective_sm_mhz=unknown,
            measured_w=unknown,
        ),
        quality="measured",
        capper_id=SILENT_CAPPER if silent else NO_CAPPER,
        ack_seq=now_ns,  # no capper counted it; the time keeps it apart from others
        issued_at_ns=None if desired is None else desired.issued_at_ns,
        sample_ts_ns=None if desired is None else desired.sample_ts_ns,
        mode=None if desired is None else desired.mode,
        strategy=None if desired is None else desired.strategy,
    )
