"""What the archive's datasets are made of: types, columns that many share, what a dataset is. No file is touched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from streams.contract import topics as t

Column = tuple[str, pa.DataType, str]

TEXT: Final = pa.dictionary(pa.int32(), pa.string())
FLOAT: Final = pa.float64()
LONG: Final = pa.int64()
INT: Final = pa.int32()
BOOL: Final = pa.bool_()
TEXTS: Final = pa.list_(pa.string())
UTC_US: Final = pa.timestamp("us", "UTC")


@dataclass(frozen=True, slots=True)
class Dataset:
    """One folder of the archive: where its rows come from, what a row is, its columns."""

    name: str
    topic: t.Topic
    row: str  # what one row is
    columns: tuple[Column, ...]

    @property
    def schema(self) -> pa.Schema:
        """As it is written; text is dictionary encoded."""
        return pa.schema([(name, kind) for name, kind, _ in self.columns])

    @property
    def plain_schema(self) -> pa.Schema:
        """The same with plain strings, as SQL sees it."""
        return pa.schema([(name, pa.string() if kind == TEXT else kind) for name, kind, _ in self.columns])


HEAD: Final[tuple[Column, ...]] = (
    ("cluster", TEXT, "cluster"),
    ("node", TEXT, "node"),
    ("ts", UTC_US, "time of the row, UTC"),
    ("ts_ns", LONG, "time of the row, ns since 1970 UTC"),
    ("quality", TEXT, "measured, estimated or simulated"),
)
TAIL: Final[tuple[Column, ...]] = (
    ("partition", INT, "Kafka partition"),
    ("offset", LONG, "Kafka offset"),
    ("sent_ms", LONG, "Kafka timestamp of the message, ms since 1970 UTC"),
)
IDENTITY: Final[tuple[Column, ...]] = (
    ("boot_id", TEXT, "start of the agent's spool"),
    ("seq", LONG, "counts the node's messages within boot_id"),
)
SERVES: Final[tuple[Column, ...]] = (
    ("engine", TEXT, "serving engine on this GPU"),
    ("stack", TEXT, "model x precision x engine x GPU"),
    ("workload", TEXT, "workload class"),
)
GPU: Final[tuple[Column, ...]] = (
    ("uuid", TEXT, "GPU"),
    ("gpu_index", INT, "place in the message, 0 = first GPU of the node"),
    ("name", TEXT, "device model"),
)


def histogram(kind: str, meaning: str) -> tuple[Column, ...]:
    return (
        (
            f"{kind}_scale",
            INT,
            f"{meaning}: histogram scale, bucket i holds 2**(i/2**scale) < ms <= 2**((i+1)/2**scale)",
        ),
        (f"{kind}_index", pa.list_(INT), f"{meaning}: buckets that hold something"),
        (f"{kind}_count", pa.list_(LONG), f"{meaning}: count in each of them since the message before"),
        (f"{kind}_sum_ms", FLOAT, f"{meaning}: sum, ms"),
    )
