"""Point-in-time reads: worked examples, and the law that nothing from after the asked time leaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.contract.records import NodeFeatures
from streams.sinks.rows import Batch, to_tables
from streams.sinks.schemas import FEATURES
from streams.store.offline import OfflineStore
from streams.store.online import OnlineStore
from streams.store.point_in_time import as_of, connect
from tests.unit.store.makers import T0, S, archive, features

POWER = "power_w_mean_60s"
SENT = 50_000_000  # a record of makers.features is sent this long after its window ended


def asked(*rows: tuple[str, int]) -> pa.Table:
    return pa.table({"gpu_uuid": [gpu for gpu, _ in rows], "ts_ns": pa.array([ts for _, ts in rows], pa.int64())})


def values(table: pa.Table, name: str = POWER) -> list[Any]:
    found: list[Any] = table[name].to_pylist()
    return found


@pytest.fixture
def store(tmp_path: Path) -> OfflineStore:
    archive(tmp_path, [features(seq, {POWER: (100.0 + seq, None), "waste_w": (1.0, 2.0)}) for seq in range(5)])
    return OfflineStore(tmp_path)


def test_each_row_gets_what_was_known_then(store: OfflineStore) -> None:
    table = store.point_in_time(
        asked(
            ("GPU-a", T0 + 3 * S + SENT), ("GPU-a", T0 + 3 * S), ("GPU-a", T0), ("GPU-b", T0 + 4 * S), ("GPU-z", T0 + S)
        ),
        {POWER: 60.0, "waste_w": 60.0},
    )
    assert values(table) == [103.0, 102.0, None, None, None]
    assert values(table, "waste_w") == [1.0, 1.0, None, 2.0, None]
    assert values(table, "window_end_ns") == [T0 + 3 * S, T0 + 2 * S, None, T0 + 3 * S, None]
    assert values(table, "quality") == ["simulated", "simulated", None, "simulated", None]
    assert values(table, "age_s")[1] == 1.0


def test_each_feature_has_its_own_time_to_live(store: OfflineStore) -> None:
    late = T0 + 4 * S + 10 * S
    table = store.point_in_time(asked(("GPU-a", late), ("GPU-a", late + 1)), {POWER: 10.0, "waste_w": 60.0})
    assert values(table) == [104.0, None]
    assert values(table, "waste_w") == [1.0, 1.0]


def test_order_and_further_columns_of_the_entities_are_kept(store: OfflineStore) -> None:
    entities = asked(("GPU-a", T0 + 4 * S), ("GPU-a", T0 + S), ("GPU-a", T0 + 4 * S)).append_column(
        "label", [["x", "y", "z"]]
    )
    table = store.point_in_time(entities, {POWER: 60.0})
    assert table.column_names == ["gpu_uuid", "ts_ns", "label", "window_end_ns", "age_s", "quality", POWER]
    assert values(table, "label") == ["x", "y", "z"]
    assert values(table) == [103.0, 100.0, 103.0]


def test_a_feature_that_no_file_has_is_null(store: OfflineStore) -> None:
    table = store.point_in_time(asked(("GPU-a", T0 + 4 * S)), {POWER: 60.0, "not_yet_w": 60.0})
    assert values(table, "not_yet_w") == [None]
    assert values(table) == [103.0]


def test_a_backlog_was_not_known_before_it_was_worked_off(tmp_path: Path) -> None:
    arrival = T0 + 3600 * S
    archive(tmp_path, [features(seq, {POWER: (100.0 + seq, 0.0)}, emitted_ns=arrival) for seq in range(10)])
    table = OfflineStore(tmp_path).point_in_time(
        asked(("GPU-a", T0 + 9 * S), ("GPU-a", arrival - 1), ("GPU-a", arrival)), {POWER: 7200.0}
    )
    assert values(table) == [None, None, 109.0]


def test_no_extension_can_be_fetched() -> None:
    with connect() as connection:
        names = ("autoinstall_known_extensions", "autoload_known_extensions", "allow_community_extensions")
        for name in names:
            assert connection.execute(f"SELECT current_setting('{name}')").fetchone() == (False,)


VALUE = st.one_of(st.none(), st.floats(0, 1000))
# (step of the window's end, delay of its sending, value, whether it is sent once more at the end), in seconds
SENDINGS = st.lists(st.tuples(st.integers(1, 20), st.integers(0, 40), VALUE, st.booleans()), min_size=1, max_size=12)
ASKED = st.lists(st.integers(-5, 300), min_size=1, max_size=12)


def sent(sendings: list[tuple[int, int, float | None, bool]]) -> list[NodeFeatures]:
    """Records of one node in the order of sending: windows end one after the other, each sent after the one before."""
    out: list[NodeFeatures] = []
    end_s = emitted_s = 0
    for seq, (step_s, delay_s, value, _) in enumerate(sendings):
        end_s += step_s
        emitted_s = max(emitted_s, end_s + delay_s)
        record = features(seq, {POWER: (value,)}, uuid=("GPU-a",), end_ns=T0 + end_s * S, emitted_ns=T0 + emitted_s * S)
        out.append(record)
    again = [record for record, (_, _, _, twice) in zip(out, sendings, strict=True) if twice]
    return out + [
        features(r.seq, r.features, uuid=r.uuid, end_ns=r.window_end_ns, emitted_ns=T0 + (emitted_s + 5) * S)
        for r in again
    ]


@given(sendings=SENDINGS, at_s=ASKED, ttl_s=st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_offline_equals_what_the_online_store_would_have_said(
    sendings: list[tuple[int, int, float | None, bool]], at_s: list[int], ttl_s: int
) -> None:
    records = sent(sendings)
    table = to_tables(NodeFeatures, Batch(0, list(range(len(records))), [None] * len(records), records))[FEATURES.name]
    entities = asked(*(("GPU-a", T0 + at * S) for at in at_s))
    with connect() as connection:
        connection.register("rows", table)
        joined = as_of(connection, entities, source="rows", present=[POWER], ttl_s={POWER: float(ttl_s)})
    for at, value, end_ns in zip(at_s, values(joined), values(joined, "window_end_ns"), strict=True):
        now_ns = T0 + at * S
        online = OnlineStore({POWER: float(ttl_s)})
        for record in records:
            if record.emitted_ns <= now_ns:
                online.push(record)
        known = online.get("GPU-a", POWER, now_ns=now_ns)
        assert (value, end_ns) == (known.value, known.window_end_ns)
        assert end_ns is None or end_ns <= now_ns, "a value from after the asked time leaked"


@given(sendings=SENDINGS, at_s=st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_the_future_changes_nothing(sendings: list[tuple[int, int, float | None, bool]], at_s: int) -> None:
    records, now_ns = sent(sendings), T0 + at_s * S
    past = [record for record in records if max(record.emitted_ns, record.window_end_ns) <= now_ns]
    answers = []
    for chosen in (records, past):
        if not chosen:
            continue
        table = to_tables(NodeFeatures, Batch(0, list(range(len(chosen))), [None] * len(chosen), chosen))[FEATURES.name]
        with connect() as connection:
            connection.register("rows", table)
            answers.append(
                as_of(
                    connection, asked(("GPU-a", now_ns)), source="rows", present=[POWER], ttl_s={POWER: 1e6}
                ).to_pylist()
            )
    if past:
        assert answers[0] == answers[1]
    else:
        assert answers[0][0]["window_end_ns"] is None
