"""What every record is made of: the base class, columns, the words of the contract, and the sparse histogram."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Quality = Literal["measured", "estimated", "simulated"]
Mode = Literal["observe", "recommend", "canary", "on"]
OnExpiry = Literal["restore", "hold", "floor"]
AckStatus = Literal["applied", "clamped", "refused", "expired", "restored", "recommended"]
GpuState = Literal["ok", "lost", "forbidden"]
Severity = Literal["info", "warning", "critical"]
IntentKind = Literal["pause", "resume", "cap", "clear"]

# JSON has no bound for whole numbers, but Parquet, numpy and the clients of other languages do: what does not fit into
# 64 bits is refused on reading, not somewhere behind it.
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Floats = tuple[float | None, ...]
Ints = tuple[Int64 | None, ...]
Texts = tuple[str | None, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every record: immutable, keyword only, unknown JSON fields ignored on reading."""


class Histogram(Record, frozen=True, kw_only=True):
    """Sparse exponential histogram of one interval (OpenTelemetry's base-2 scheme): value <= 2**((index+1) / 2**scale).

    Delta temporality: it counts what happened since the record before. Values are milliseconds; scale 5 makes buckets
    2.2 % wide.
    """

    scale: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    index: tuple[Int64, ...] = ()
    count: tuple[Annotated[int, msgspec.Meta(ge=0, le=2**53)], ...] = ()  # as many as `index`
    sum_ms: float = 0.0
