"""Whether a reading can stand in a record. A source's faulty reading must not make the node's record unreadable.

Kafka's readers refuse a record with unequal columns or numbers beyond 64 bits as a whole: so a reading that has them is
this source's failure, and the other sources go on.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agents.node.sources.base import Reading

_INT_MAX: Final = 2**63


def problem(reading: Reading) -> str | None:
    """One sentence on what is wrong with it; None when it is sound."""
    named = [("gpu", reading.gpu, "uuid"), ("domains", reading.domains, "name"), ("sensors", reading.sensors, "name")]
    for part, columns, key in named:
        if columns is not None and (found := _columns(part, columns, key)):
            return found
    if reading.gpu is not None and len(set(reading.gpu.uuid)) != len(reading.gpu.uuid):
        return "the reading names a GPU twice"
    return None


def _columns(part: str, columns: msgspec.Struct, key: str) -> str | None:
    size = len(getattr(columns, key))
    for name in columns.__struct_fields__:
        column = getattr(columns, name)
        if column is None:
            continue
        if len(column) != size:
            return f"the reading's column {part}.{name} has {len(column)} values for {size} rows"
        for value in column:
            if type(value) is int and not -_INT_MAX <= value < _INT_MAX:
                return f"the reading's value {value} in {part}.{name} does not fit into 64 bits"
    return None
