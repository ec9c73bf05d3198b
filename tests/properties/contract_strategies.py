"""Hypothesis strategies for every record of the contract, read from the type annotations."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from streams.contract import records as r
from streams.contract.topics import TOPICS

RECORDS = tuple(topic.record for topic in TOPICS if topic.record is not None)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=6)
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT = st.floats(allow_nan=False, allow_infinity=False)
RAW = st.sampled_from([msgspec.Raw(text) for text in (b"null", b"[1,2.5]", b'{"a":{"b":null}}', b'"text"')])
NAMED = (r.DomainColumns, r.SensorColumns)  # columns as long as `name`
COLUMNAR = (r.GpuColumns, r.EnvelopeColumns, r.AckColumns)


def record(kind: type[r.Record]) -> st.SearchStrategy[Any]:
    """Any valid value of a record type: columns as long as their uuid, `schema` as written by this release."""
    if kind in COLUMNAR or kind is r.NodeFeatures:
        return st.integers(0, 3).flatmap(lambda count: _build(kind, count))
    if kind in (r.CgroupColumns, r.Histogram, *NAMED):
        return st.integers(0, 4).flatmap(lambda count: _build(kind, count))
    if kind is r.PowerDesired:
        return _build(kind, None).flatmap(_with_brake)
    return _build(kind, None)


def _with_brake(value: r.PowerDesired) -> st.SearchStrategy[r.PowerDesired]:
    """A brake has one value per GPU of its envelope and step; half of the envelopes have none."""
    gpus = len(value.gpu.uuid)
    column = st.lists(st.one_of(st.none(), FLOAT), min_size=gpus, max_size=gpus).map(tuple)
    steps = st.lists(st.tuples(FLOAT, column), max_size=3)
    brakes = st.builds(_brake, TEXT, FLOAT, steps)
    return st.one_of(st.none(), brakes).map(lambda brake: msgspec.structs.replace(value, brake=brake))


def _brake(row: str, budget_w: float, steps: list[tuple[float, r.Floats]]) -> r.BrakeColumns:
    ratios, watts = tuple(at for at, _ in steps), tuple(column for _, column in steps)
    return r.BrakeColumns(row=row, budget_w=budget_w, from_ratio=ratios, max_power_w=watts)


def _build(kind: type[r.Record], count: int | None) -> st.SearchStrategy[Any]:
    hints = get_type_hints(kind, include_extras=True)
    fields = {name: _field(kind, name, hint, count) for name, hint in hints.items()}
    return st.builds(kind, **fields)


def _field(kind: type[r.Record], name: str, hint: Any, count: int | None) -> st.SearchStrategy[Any]:
    if name == "schema":
        return st.just(1)
    if kind is r.PowerDesired and name == "brake":
        return st.none()  # see _with_brake
    if (name == "uuid" or (kind in NAMED and name == "name")) and count is not None:
        return st.lists(TEXT, min_size=count, max_size=count, unique=True).map(tuple)
    if kind is r.NodeFeatures and name == "engines":
        count = None
    return _value(hint, count)


def _value(hint: Any, count: int | None) -> st.SearchStrategy[Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = arguments[1]
        return st.integers(bounds.ge, bounds.le)
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin in (Union, types.UnionType):
        return st.one_of([_value(option, count) for option in reversed(arguments)])
    if origin is tuple:
        size = (0, 3) if count is None else (count, count)
        return st.lists(_value(arguments[0], None), min_size=size[0], max_size=size[1]).map(tuple)
    if origin is dict:
        return st.dictionaries(TEXT, _value(arguments[1], count), max_size=3)
    if hint is r.DeviceColumns:
        return _build(hint, count)  # no uuid of its own: its columns are as long as those of the record around it
    if isinstance(hint, type) and issubclass(hint, r.Record):
        return record(hint)
    return {str: TEXT, float: FLOAT, bool: st.booleans(), type(None): st.none(), msgspec.Raw: RAW}[hint]
