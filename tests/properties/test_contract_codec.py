"""Laws of the codec: what is written is read back, and no bytes whatever raise anything but ContractError."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from streams.contract import codec
from streams.contract import records as r
from streams.contract.dlq import MAX_ERROR, DeadLetter
from streams.contract.errors import ContractError
from tests.contracts.golden import V1, record_of
from tests.properties.contract_strategies import INT64, RECORDS, record

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
NAUGHTY = [b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"[" * 5000, b'{"":' * 5000, b"\xff", b'"\\ud800"', b"\x00", b""]


def decodes_or_is_refused(kind: type[r.Record], payload: bytes) -> None:
    try:
        value = codec.decode(kind, payload)
    except ContractError as error:
        assert str(error).startswith(kind.__name__)
    else:
        assert isinstance(value, kind)


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
@FEW
def test_decode_of_encode_is_the_same_record(kind: type[r.Record], data: st.DataObject) -> None:
    value = data.draw(record(kind))
    assert codec.decode(kind, codec.encode(value)) == value


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@given(payload=st.binary(max_size=200))
@FEW
def test_arbitrary_bytes_are_refused_as_such(kind: type[r.Record], payload: bytes) -> None:
    decodes_or_is_refused(kind, payload)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(path=st.sampled_from(V1), key=st.integers(0, 60), value=JSON)
@MANY
def test_a_field_with_any_other_json_is_read_or_refused(path: Any, key: int, value: Any) -> None:
    golden = msgspec.json.decode(path.read_bytes())
    golden[sorted(golden)[key % len(golden)]] = value
    decodes_or_is_refused(record_of(path), msgspec.json.encode(golden))


@given(path=st.sampled_from(V1), position=st.integers(0, 10**6), bit=st.integers(0, 7))
@MANY
def test_a_flipped_bit_is_read_or_refused(path: Any, position: int, bit: int) -> None:
    payload = bytearray(path.read_bytes())
    payload[position % len(payload)] ^= 1 << bit
    decodes_or_is_refused(record_of(path), bytes(payload))


@given(path=st.sampled_from(V1), position=st.integers(0, 10**6))
@MANY
def test_a_truncated_record_is_refused(path: Any, position: int) -> None:
    payload = path.read_bytes().rstrip()
    with pytest.raises(ContractError):
        codec.decode(record_of(path), payload[: position % len(payload)])


@given(path=st.sampled_from(V1), position=st.integers(0, 10**6), naughty=st.sampled_from(NAUGHTY))
@MANY
def test_naughty_bytes_in_the_middle_are_read_or_refused(path: Any, position: int, naughty: bytes) -> None:
    payload = path.read_bytes()
    at = position % len(payload)
    decodes_or_is_refused(record_of(path), payload[:at] + naughty + payload[at:])


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("unit", [b"[", b'{"a":', b"9", b" ", b"\xff", b'"x",', b"\x00"], ids=repr)
def test_a_megabyte_of_anything_is_refused(kind: type[r.Record], unit: bytes) -> None:
    with pytest.raises(ContractError):
        codec.decode(kind, unit * (1_000_000 // len(unit)))


@pytest.mark.parametrize("path", V1, ids=lambda path: path.stem)
def test_a_megabyte_in_an_unknown_field_is_ignored(path: Any) -> None:
    golden = path.read_bytes().rstrip()
    grown = golden[:-1] + b',"unknown":"' + b"x" * 1_000_000 + b'"}'
    assert type(codec.decode(record_of(path), grown)) is record_of(path)


@given(
    topic=st.text(max_size=20),
    numbers=st.tuples(INT64, INT64, INT64),
    error=st.text(st.characters(exclude_categories=("Cs",)), max_size=2000),
    component=st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
)
@example(topic="t", numbers=(0, -1, 0), error="x" * 5000, component="c")
@settings(max_examples=100, deadline=None)
def test_dead_letters_round_trip(topic: str, numbers: tuple[int, int, int], error: str, component: str) -> None:
    topic = topic.encode(errors="replace").decode()
    letter = DeadLetter(topic, numbers[0], numbers[1], error, component, numbers[2])
    back = DeadLetter.from_headers([("other", b"1"), *letter.to_headers()])
    assert back == DeadLetter(topic, numbers[0], numbers[1], error[:MAX_ERROR], component, numbers[2])


@given(headers=st.lists(st.tuples(st.sampled_from(["dlq.topic", "dlq.offset", "dlq.ts_ns"]), st.none() | st.binary())))
@settings(max_examples=100, deadline=None)
def test_any_headers_give_a_readable_letter(headers: list[tuple[str, bytes | None]]) -> None:
    assert isinstance(DeadLetter.from_headers(headers).offset, int)
