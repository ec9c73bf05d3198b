"""A record of the contract as text for a human, or as plain values for --json. Unknown columns are left out."""

from __future__ import annotations

import base64
import time
from typing import Final

import msgspec

from agents.cli.kafka_read import Message
from streams.contract.codec import decode
from streams.contract.dlq import DeadLetter
from streams.contract.errors import ContractError
from streams.contract.records import Record
from streams.contract.topics import BY_NAME, DLQ

WIDE: Final = 100  # characters of one value


def clock(ms: int) -> str:
    """UTC time with milliseconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(ms // 1000)) + f".{ms % 1000:03d}"


def as_value(message: Message) -> dict[str, object]:
    """The record decoded (or why not), with where it lies."""
    out: dict[str, object] = {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "timestamp_ms": message.timestamp_ms,
        "key": _text(message.key),
        "headers": {name: _text(value) for name, value in message.headers},
    }
    try:
        record = _decoded(message)
    except ContractError as error:
        return {**out, "error": str(error), "value_base64": base64.b64encode(message.value or b"").decode()}
    return {**out, "record": msgspec.to_builtins(record) if isinstance(record, Record) else record}


def as_text(message: Message) -> str:
    """A head line, then one line of scalars, then one line per column."""
    head = f"{clock(message.timestamp_ms)}  p{message.partition}@{message.offset}  {_text(message.key) or '-'}"
    if message.value is None:
        return f"{head}  (deleted: an empty value)"
    try:
        record = _decoded(message)
    except ContractError as error:
        return f"{head}  does not decode: {error}"
    if isinstance(record, DeadLetter):
        return f"{head}  {dead_letter(record)}"
    assert isinstance(record, Record)
    return "\n".join([f"{head}  {type(record).__name__}", *_lines(record, "")])


def dead_letter(letter: DeadLetter) -> str:
    """Where a dead letter came from and why, in one line."""
    return f"{letter.topic} p{letter.partition}@{letter.offset} by {letter.component}: {letter.error}"


def _decoded(message: Message) -> object:
    if message.topic == DLQ.name:
        return DeadLetter.from_headers(list(message.headers))
    topic = BY_NAME[message.topic]
    assert topic.record is not None
    return decode(topic.record, message.value)


def _lines(record: msgspec.Struct, indent: str) -> list[str]:
    scalars: list[str] = []
    rest: list[str] = []
    for name in record.__struct_fields__:
        value = getattr(record, name)
        match value:
            case None | () | "":
                continue
            case msgspec.Raw():
                scalars.append(f"{name}=<{len(bytes(value))} bytes>")
            case msgspec.Struct():
                rest += [f"{indent}  {name}:", *_lines(value, indent + "  ")]
            case tuple() if any(isinstance(one, msgspec.Struct) for one in value):
                for number, one in enumerate(value):
                    rest += [f"{indent}  {name}[{number}]:", *_lines(one, indent + "  ")]
            case tuple():
                rest.append(f"{indent}  {name}: {' '.join(map(_short, value))}")
            case dict():
                rest += [f"{indent}  {key}: {_spread(one)}" for key, one in value.items()]
            case _:
                scalars.append(f"{name}={_short(value)}")
    return [*([f"{indent}  {' '.join(scalars)}"] if scalars else []), *rest]


def _spread(value: object) -> str:
    return " ".join(map(_short, value)) if isinstance(value, tuple) else _short(value)


def _short(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="replace")
