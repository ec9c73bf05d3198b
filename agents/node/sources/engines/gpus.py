"""The GPUs of an engine as the record names them: indices of the settings become UUIDs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from streams.contract.records import EngineReading, GpuColumns


def with_uuids(engines: Sequence[EngineReading], gpu: GpuColumns | None) -> tuple[EngineReading, ...]:
    """Engines whose GPUs are UUIDs. One that names an index which the node does not show has no GPUs then: half an
    engine must not be controlled."""
    return tuple(_with_uuids(engine, gpu) for engine in engines)


def _with_uuids(engine: EngineReading, gpu: GpuColumns | None) -> EngineReading:
    if not any(name.isdigit() for name in engine.gpu_uuid):
        return engine
    known = () if gpu is None else gpu.uuid
    found = [known[int(n)] if n.isdigit() and int(n) < len(known) else n for n in engine.gpu_uuid]
    complete = not any(name.isdigit() for name in found)
    return msgspec.structs.replace(engine, gpu_uuid=tuple(dict.fromkeys(found)) if complete else ())
