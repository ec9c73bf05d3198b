"""Golden records of version 1 decode for ever, mean the same, and survive fields from the future."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from streams.contract import codec
from streams.contract.asyncapi import asyncapi, record_schema
from streams.contract.topics import TOPICS, topic_of
from tests.contracts.compat import breaks
from tests.contracts.golden import RECORDS, V1, load, record_of, released_schemas

OPEN_MAPS = {"features", "evidence", "offsets", "data"}  # their keys are data, not fields


def names(path: Path) -> str:
    return path.stem


def from_the_future(value: Any) -> Any:
    """The same JSON with an unknown field in every object that is a record or a part of one."""
    if isinstance(value, list):
        return [from_the_future(item) for item in value]
    if not isinstance(value, dict):
        return value
    grown = {key: item if key in OPEN_MAPS else from_the_future(item) for key, item in value.items()}
    return grown | {"field_of_a_later_release": {"deep": [1, None, "x"]}}


def test_every_record_of_the_contract_has_a_golden_file() -> None:
    assert set(RECORDS.values()) == {topic.record for topic in TOPICS if topic.record is not None}
    assert {record_of(path) for path in V1} == set(RECORDS.values())


@pytest.mark.parametrize("path", V1, ids=names)
def test_golden_record_decodes_and_keeps_every_value(path: Path) -> None:
    decoded = codec.decode(record_of(path), path.read_bytes())
    again = msgspec.json.decode(codec.encode(decoded))
    assert _as_known(again, load(path)) == load(path)


def _as_known(value: Any, golden: Any) -> Any:
    """`value` without the fields that later releases added to it or to a record inside it."""
    if isinstance(golden, dict):
        return {key: _as_known(value[key], part) for key, part in golden.items()}
    if isinstance(golden, list) and len(golden) == len(value):
        return [_as_known(one, part) for one, part in zip(value, golden, strict=True)]
    return value


@pytest.mark.parametrize("path", V1, ids=names)
def test_golden_record_fits_the_published_schema(path: Path) -> None:
    schema = record_schema(topic_of(record_of(path)))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(load(path))


@pytest.mark.parametrize("path", V1, ids=names)
def test_unknown_fields_change_nothing(path: Path) -> None:
    record, golden = record_of(path), load(path)
    grown = from_the_future(golden)
    assert codec.decode(record, msgspec.json.encode(grown)) == codec.decode(record, msgspec.json.encode(golden))
    jsonschema.Draft202012Validator(record_schema(topic_of(record))).validate(grown)


@pytest.mark.parametrize("path", V1, ids=names)
def test_a_later_major_version_is_refused_by_name(path: Path) -> None:
    newer = load(path) | {"schema": 2}
    with pytest.raises(codec.SchemaTooNew, match="schema 2 is not 1"):
        codec.decode(record_of(path), msgspec.json.encode(newer))


def test_nothing_released_was_removed_narrowed_or_made_required() -> None:
    assert breaks(released_schemas(), asyncapi()["components"]["schemas"]) == []


def changed(change: str) -> dict[str, Any]:
    schemas = copy.deepcopy(released_schemas())
    alert = schemas["Alert"]
    match change:
        case "removed":
            del alert["properties"]["gpu_uuid"]
        case "renamed":
            alert["properties"]["uuid"] = alert["properties"].pop("gpu_uuid")
        case "required":
            alert["required"].append("gpu_uuid")
        case "optional":
            alert["required"].remove("rule")
        case "retyped":
            alert["properties"]["ts_ns"] = {"type": "string"}
        case "not null":
            alert["properties"]["node"] = {"type": "string"}
        case "enum narrowed":
            alert["properties"]["severity"]["enum"].remove("info")
        case "record gone":
            del schemas["Alert"]
    return schemas


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("removed", "Alert.gpu_uuid is gone"),
        ("renamed", "Alert.gpu_uuid is gone"),
        ("required", "Alert.gpu_uuid is required now"),
        ("optional", "Alert.rule may be missing now"),
        ("retyped", "Alert.ts_ns no longer takes every value that it took"),
        ("not null", "Alert.node no longer takes every value that it took"),
        ("enum narrowed", "Alert.severity no longer takes every value that it took"),
        ("record gone", "Alert is gone"),
    ],
)
def test_the_check_notices_each_breaking_change(change: str, sentence: str) -> None:
    assert sentence in breaks(released_schemas(), changed(change))


def test_an_optional_field_more_breaks_nothing() -> None:
    schemas = copy.deepcopy(released_schemas())
    schemas["Alert"]["properties"]["team"] = {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    schemas["Alert"]["properties"]["severity"]["enum"].append("page")
    assert breaks(released_schemas(), schemas) == []
