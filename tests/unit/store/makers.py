"""Feature records and their archive, for the store's tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streams.contract.records import Floats, NodeFeatures
from streams.sinks.parquet import by_hour, write
from streams.sinks.rows import Batch, to_tables
from streams.sinks.schemas import FEATURES

S = 1_000_000_000
T0 = 1_767_225_600 * S  # 2026-01-01T00:00:00Z


def features(
    seq: int,
    values: dict[str, Floats],
    *,
    uuid: tuple[str, ...] = ("GPU-a", "GPU-b"),
    node: str = "n1",
    boot_id: str = "boot",
    end_ns: int | None = None,
    emitted_ns: int | None = None,
) -> NodeFeatures:
    """A record whose window ended `seq` seconds after T0 and was sent 50 ms later, unless told otherwise."""
    end_ns = T0 + seq * S if end_ns is None else end_ns
    return NodeFeatures(
        cluster="c",
        node=node,
        boot_id=boot_id,
        seq=seq,
        window_end_ns=end_ns,
        emitted_ns=end_ns + 50_000_000 if emitted_ns is None else emitted_ns,
        quality="simulated",
        uuid=uuid,
        features=values,
    )


def archive(folder: Path, records: Sequence[NodeFeatures], *, first_offset: int = 0) -> None:
    """Writes the records as the archive job does: through its own tables, one file per hour."""
    offsets = range(first_offset, first_offset + len(records))
    tables = to_tables(NodeFeatures, Batch(0, list(offsets), [None] * len(records), list(records)))
    for hour, part in by_hour(tables[FEATURES.name]):
        write(folder, FEATURES.name, hour, partition=0, table=part)
