"""The features job's own view of its records: telemetry with the used columns only, features ready to be sent.

What never changes while a node runs (names of GPUs, their bounds) is parsed once and then recognised by its bytes; what
changes is decoded as plain lists. Engines are passed on as the bytes that came; their readers check what they read of
them, as this job does with the two fields that it needs.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec

from models.features.registry import FEATURES
from streams.contract.codec import CONTENT_TYPE, SCHEMA_VERSION
from streams.contract.errors import ContractError, SchemaTooNew
from streams.contract.records import DeviceColumns, Floats, Int64, Ints, Quality, Texts

Column = list[float | None] | None
Seq = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
HEADERS: Final = [("content-type", CONTENT_TYPE.encode()), ("schema", str(SCHEMA_VERSION).encode())]
NO_ENGINES: Final = msgspec.Raw(b"[]")
NULL: Final = msgspec.Raw(b"null")
MOST_BOARDS: Final = 20_000  # sets of GPUs remembered, about 3 kB each; more nodes than one worker serves
MOST_BOARD_BYTES: Final = 64 << 20  # of what they are recognised by: a message may be 1 MB
BROKEN: Final = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class GpuUsed(msgspec.Struct):
    """The columns that features ask for; those that stay the same as bytes."""

    uuid: msgspec.Raw
    name: msgspec.Raw = NULL
    power_w: Column = None
    energy_mj: Column = None
    sm_mhz: Column = None
    util_ratio: Column = None
    temp_c: Column = None
    throttle: Column = None
    sm_max_mhz: msgspec.Raw = NULL
    limit_default_w: msgspec.Raw = NULL
    limit_min_w: msgspec.Raw = NULL
    limit_max_w: msgspec.Raw = NULL

    def columns(self) -> tuple[Column, ...]:
        """The numeric columns in the order of GPU_COLUMNS."""
        return (self.power_w, self.energy_mj, self.sm_mhz, self.util_ratio, self.temp_c, self.throttle)

    def fixed(self) -> tuple[msgspec.Raw, ...]:
        """The columns that make a Board."""
        return (
            self.uuid,
            self.name,
            self.sm_max_mhz,
            self.limit_default_w,
            self.limit_min_w,
            self.limit_max_w,
        )


class Fixed(msgspec.Struct, array_like=True):
    """The columns of GpuUsed.fixed() with their types."""

    uuid: list[str]
    name: Texts | None
    sm_max_mhz: Ints | None
    limit_default_w: Floats | None
    limit_min_w: Floats | None
    limit_max_w: Floats | None


class Board(NamedTuple):
    """The GPUs of a node and what they say of their own limits: as values, and as the bytes that are passed on."""

    uuid: list[str]
    uuid_json: msgspec.Raw
    name_json: msgspec.Raw
    device_json: msgspec.Raw


class EngineUsed(msgspec.Struct):
    """Of an engine: whose tokens it counts."""

    gpu_uuid: list[str]
    generation_tokens_total: Int64 | None = None


class TelemetryUsed(msgspec.Struct):
    """NodeTelemetry as far as it is used here."""

    cluster: str
    node: str
    boot_id: str
    seq: Seq
    ts_ns: Int64
    quality: Quality
    schema: int = 1
    gpu: GpuUsed | None = None
    engines: msgspec.Raw = NO_ENGINES


FeatureColumns = msgspec.defstruct("FeatureColumns", [(feature.name, list[float]) for feature in FEATURES])


class FeaturesOut(msgspec.Struct):
    """NodeFeatures as it is written, field for field; `features` is a FeatureColumns, what is passed on is bytes."""

    cluster: str
    node: str
    boot_id: str
    seq: int
    window_end_ns: int
    emitted_ns: int
    quality: Quality
    uuid: msgspec.Raw
    features: msgspec.Struct
    schema: int = 1
    name: msgspec.Raw = NULL
    engines: msgspec.Raw = NO_ENGINES
    device: msgspec.Raw = NULL


GPU_COLUMNS: Final = ("power_w", "energy_mj", "sm_mhz", "util_ratio", "temp_c", "throttle")
_telemetry = msgspec.json.Decoder(TelemetryUsed)
_fixed = msgspec.json.Decoder(Fixed)
_engines = msgspec.json.Decoder(list[EngineUsed])
encode: Final = msgspec.json.Encoder().encode


class Sample(NamedTuple):
    """One telemetry message that counts, with its place in the partition; `board` is None for a node without GPUs.

    `tokens` is each GPU's share of the tokens that its engine has generated since it started; None when none reports.
    """

    offset: int
    value: TelemetryUsed
    board: Board | None
    tokens: dict[str, float] | None


class Reader:
    """Decodes telemetry. Remembers the boards that it has parsed, at most MOST_BOARDS and MOST_BOARD_BYTES."""

    def __init__(self) -> None:
        self._boards: dict[bytes, Board] = {}
        self._bytes = 0

    def read(self, offset: int, payload: bytes | None) -> Sample:
        """One telemetry message.

        Raises:
            ContractError: the same reasons as streams.contract.codec.decode, for the columns that are read.
        """
        if payload is None:
            raise ContractError("NodeTelemetry: the value is empty (a tombstone where a record was expected)")
        try:
            value = _telemetry.decode(payload)
        except BROKEN as error:
            raise ContractError(f"NodeTelemetry: {type(error).__name__}: {error}") from error
        if value.schema != SCHEMA_VERSION:
            raise SchemaTooNew(
                f"NodeTelemetry: schema {value.schema} is not {SCHEMA_VERSION}; read it with a later release"
            )
        board = None if value.gpu is None else self._board(value.gpu)
        return Sample(offset, value, board, _tokens(value.engines))

    def _board(self, gpu: GpuUsed) -> Board:
        fixed = b",".join(gpu.fixed())
        board = self._boards.get(fixed)
        if board is None:
            board = _parse(fixed)
            self._bytes += len(fixed)
            if len(self._boards) >= MOST_BOARDS or self._bytes > MOST_BOARD_BYTES:
                self._boards.clear()
                self._bytes = len(fixed)
            self._boards[fixed] = board
        size = len(board.uuid)
        for name, column in zip(GPU_COLUMNS, gpu.columns(), strict=True):
            if column is not None and len(column) != size:
                raise ContractError(f"NodeTelemetry: column {name} has {len(column)} values for {size} GPUs")
        return board


def _parse(fixed: bytes) -> Board:
    try:
        found = _fixed.decode(b"[%s]" % fixed)
    except BROKEN as error:
        raise ContractError(f"NodeTelemetry: gpu: {type(error).__name__}: {error}") from error
    size = len(found.uuid)
    if len(set(found.uuid)) != size:
        raise ContractError("NodeTelemetry: a GPU is named twice in uuid")
    for name in Fixed.__struct_fields__[1:]:
        column = getattr(found, name)
        if column is not None and len(column) != size:
            raise ContractError(f"NodeTelemetry: column {name} has {len(column)} values for {size} GPUs")
    device = DeviceColumns(
        sm_max_mhz=found.sm_max_mhz,
        limit_default_w=found.limit_default_w,
        limit_min_w=found.limit_min_w,
        limit_max_w=found.limit_max_w,
    )
    passed_on = (msgspec.Raw(encode(part)) for part in (found.uuid, found.name, device))
    return Board(found.uuid, *passed_on)


def _tokens(engines_json: msgspec.Raw) -> dict[str, float] | None:
    if len(engines_json) <= len(NO_ENGINES):
        return None
    try:
        engines = _engines.decode(engines_json)
    except BROKEN as error:
        raise ContractError(f"NodeTelemetry: engines: {type(error).__name__}: {error}") from error
    shares: dict[str, float] = {}
    for engine in engines:
        if engine.generation_tokens_total is not None and engine.gpu_uuid:
            share = engine.generation_tokens_total / len(engine.gpu_uuid)
            for uuid in engine.gpu_uuid:
                shares[uuid] = share
    return shares
