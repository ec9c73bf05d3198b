"""Documents that other teams read, made from topics.py and never by hand: JSON Schemas, AsyncAPI 3.0, the topic table.

`python -m streams.contract.asyncapi` writes them, `--check` only compares and names what is out of date. It reads no
broker and no settings; partition counts shown are the contract's defaults.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from streams.contract.codec import CONTENT_TYPE, SCHEMA_VERSION
from streams.contract.dlq import PREFIX
from streams.contract.topics import DAY_MS, DEFAULT_PARTITIONS, DLQ, STATE, TOPICS, Topic

Json = dict[str, Any]
SCHEMAS: Final = Path(__file__).parent / "schemas"
DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "contract.md"
BEGIN: Final = "<!-- topics: made by python -m streams.contract.asyncapi -->"
END: Final = "<!-- topics: end -->"
BINDING: Final = "0.5.0"
WITHOUT_GROUP: Final = frozenset({"node", "operator"})  # they read by assign(): no consumer group


def short(topic: Topic) -> str:
    """The topic's name without "energy." and the major version, e.g. "telemetry.node"."""
    return topic.name.removeprefix("energy.").rsplit(".v", 1)[0]


def record_schema(topic: Topic) -> Json:
    """JSON Schema 2020-12 of the topic's record; raises ValueError for the dead-letter queue, which has none."""
    if topic.record is None:
        raise ValueError(f"{topic.name} carries original bytes and has no schema")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{topic.name}.schema.json",
        "$comment": "Unknown fields are allowed: readers ignore them.",
    }
    body: Json = _clean(msgspec.json.schema(topic.record))
    return head | body


def _clean(schema: Any) -> Any:
    """The same schema with docstring indentation taken out of its descriptions."""
    if isinstance(schema, list):
        return [_clean(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else _clean(value)
        for key, value in schema.items()
    }


def asyncapi() -> Json:
    """The AsyncAPI 3.0 document of the whole product: a channel per topic, an operation per writer and reader."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Energy Orchestrator on Kafka",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Records are JSON; unknown is null, never 0; readers ignore unknown fields.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {short(topic): _channel(topic) for topic in TOPICS},
        "operations": dict(operation for topic in TOPICS for operation in _operations(topic)),
        "components": {
            "schemas": _component_schemas(),
            "messages": {message_name(topic): _message(topic) for topic in TOPICS},
        },
    }


def message_name(topic: Topic) -> str:
    return "DeadLetter" if topic.record is None else topic.record.__name__


def _component_schemas() -> Json:
    records = [topic.record for topic in TOPICS if topic.record is not None]
    _, schemas = msgspec.json.schema_components(records, ref_template="#/components/schemas/{name}")
    cleaned: Json = _clean(schemas)
    return dict(sorted(cleaned.items()))


def _channel(topic: Topic) -> Json:
    name = message_name(topic)
    return {
        "address": topic.name,
        "description": topic.purpose,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {
            "kafka": {
                "topic": topic.name,
                "partitions": topic.partition_count(DEFAULT_PARTITIONS),
                "topicConfiguration": _topic_configuration(topic),
                "bindingVersion": BINDING,
            }
        },
    }


def _topic_configuration(topic: Topic) -> Json:
    typed: Json = {"cleanup.policy": [topic.cleanup]}
    if topic.retention_ms is not None:
        typed["retention.ms"] = topic.retention_ms
    return typed


def _message(topic: Topic) -> Json:
    name = message_name(topic)
    payload: Json = {"$ref": f"#/components/schemas/{name}"}
    if topic.record is None:
        payload = {"description": "The original value, byte for byte; it may be anything, and it may be absent."}
    return {
        "name": name,
        "title": topic.purpose,
        "headers": _headers(topic),
        "payload": payload,
        "bindings": {
            "kafka": {"key": {"type": "string", "description": f"{topic.key}, UTF-8"}, "bindingVersion": BINDING}
        },
    }


def _headers(topic: Topic) -> Json:
    if topic is DLQ:
        names = ("topic", "partition", "offset", "error", "component", "ts_ns")
        properties: Json = {PREFIX + name: {"type": "string"} for name in names}
        return {"type": "object", "properties": properties, "required": list(properties)}
    properties = {"content-type": {"const": CONTENT_TYPE}, "schema": {"const": str(SCHEMA_VERSION)}}
    if topic.cloud_events:
        properties |= {
            "ce_specversion": {"const": "1.0"},
            "ce_id": {"type": "string"},
            "ce_type": {"const": topic.name},
            "ce_source": {"type": "string", "description": "/energy/<writer>"},
            "ce_time": {"type": "string", "format": "date-time"},
        }
    required = list(properties)
    properties |= {"traceparent": {"type": "string", "description": "W3C trace context"}}
    return {"type": "object", "properties": properties, "required": required}


def _operations(topic: Topic) -> Iterator[tuple[str, Json]]:
    for action, roles in (("send", topic.writers), ("receive", topic.readers)):
        for role in roles:
            yield f"{role}.{action}.{short(topic)}", _operation(topic, action, role)


def _operation(topic: Topic, action: str, role: str) -> Json:
    operation: Json = {
        "action": action,
        "channel": {"$ref": f"#/channels/{short(topic)}"},
        "messages": [{"$ref": f"#/channels/{short(topic)}/messages/{message_name(topic)}"}],
        "summary": f"{role} {'writes' if action == 'send' else 'reads'} {topic.name}",
    }
    if action == "receive" and topic is not STATE and role not in WITHOUT_GROUP:
        group = {"type": "string", "pattern": f"^eo-.+-{role}$", "description": "eo-<cluster>-<job>"}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": BINDING}}
    return operation


def topic_table() -> str:
    """The Markdown table of docs/contract.md."""
    names = ("topic", "key", "partitions", "cleanup", "record", "written by", "read by", "what")
    return "\n".join([f"| {' | '.join(names)} |", "|---" * len(names) + "|", *map(_table_row, TOPICS)])


def _table_row(topic: Topic) -> str:
    kept = "compact" if topic.retention_ms is None else f"delete after {topic.retention_ms // DAY_MS} d"
    record = "original bytes" if topic.record is None else f"[{message_name(topic)}]({_schema_link(topic)})"
    cells = (
        f"`{topic.name}`",
        topic.key,
        str(topic.partitions or f"{DEFAULT_PARTITIONS} (default)"),
        kept,
        record,
        ", ".join(topic.writers),
        ", ".join(topic.readers),
        topic.purpose,
    )
    return f"| {' | '.join(cells)} |"


def _schema_link(topic: Topic) -> str:
    return f"../streams/contract/schemas/{topic.name}.schema.json"


def documents() -> dict[Path, str]:
    """Every generated file with its content; docs/contract.md only where the checkout has it (a wheel does not)."""
    files = {
        SCHEMAS / f"{topic.name}.schema.json": _dump(record_schema(topic))
        for topic in TOPICS
        if topic.record is not None
    }
    files[SCHEMAS / "asyncapi.json"] = _dump(asyncapi())
    if DOCUMENT.exists():
        files[DOCUMENT] = with_table(DOCUMENT.read_text())
    return files


def _dump(document: Json) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def with_table(text: str) -> str:
    """The document with a fresh topic table between its markers; raises ValueError when a marker is missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/contract.md needs the lines {BEGIN!r} and {END!r} around the topic table")
    return f"{before}{BEGIN}\n{topic_table()}\n{END}{after}"


def outdated() -> list[Path]:
    """Generated files that are missing, differ from what the contract says now, or belong to no topic any more."""
    wanted = documents()
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    return stale + [path for path in sorted(SCHEMAS.glob("*.json")) if path not in wanted]


def write() -> list[Path]:
    """Brings every generated file up to date and returns those that changed."""
    changed = outdated()
    wanted = documents()
    SCHEMAS.mkdir(exist_ok=True)
    for path in changed:
        if path in wanted:
            path.write_text(wanted[path])
        else:
            path.unlink()
    return changed


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the files are (or were brought) up to date, 1 when --check found some that are not."""
    parser = argparse.ArgumentParser(prog="python -m streams.contract.asyncapi", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 when a file is out of date")
    check = parser.parse_args(argv).check
    changed = outdated() if check else write()
    for path in changed:
        print(f"{'out of date' if check else 'written'}: {path.name}")
    if check and changed:
        print("run: python -m streams.contract.asyncapi", file=sys.stderr)
    return 1 if check and changed else 0


if __name__ == "__main__":
    sys.exit(main())
