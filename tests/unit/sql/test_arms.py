"""Who counts as controlled and who as hold-out: grants that grant nothing, and flags that change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest

from agents.cli.sql_run import named
from streams.contract import records as r
from streams.sinks import archive_reader
from tests.fakes import archive as fake

NODE = "node-x"
MINUTE_1, MINUTE_2, MINUTE_3 = range(30, 90), range(90, 150), range(150, 210)  # the fake begins at second 30


@pytest.fixture(autouse=True)
def three_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """One engine at 300 W, one that is left alone and a hold-out at 400 W."""
    groups = (
        ("granted", ("GPU-g",), False, 300.0),
        ("left", ("GPU-l",), False, 400.0),
        ("held", ("GPU-h",), True, 400.0),
    )
    monkeypatch.setattr(fake, "NODES", {NODE: groups})
    monkeypatch.setattr(fake, "TBT", {"granted": (100, 10), "left": (95, 10), "held": (90, 10)})


def flagged(second: int, **holdout: bool) -> r.PowerDesired:
    """The envelope of that second with other flags."""
    record = fake.desired(NODE, second)
    flags = tuple(holdout.get(uuid[-1], flag) for uuid, flag in zip(record.gpu.uuid, record.gpu.holdout, strict=True))
    return msgspec.structs.replace(record, gpu=msgspec.structs.replace(record.gpu, holdout=flags))


def acked(second: int, *, grants: str, limit_w: float | None = None) -> r.PowerApplied:
    """Every GPU applied, as the capper says it; only those in `grants` were asked for a clock (and a limit)."""
    record = fake.applied(NODE, second)
    asked = [uuid[-1] in grants for uuid in record.gpu.uuid]
    gpu = msgspec.structs.replace(
        record.gpu,
        status=("applied",) * len(asked),
        reason=tuple("" if one else "nothing granted: at its own value" for one in asked),
        requested_sm_mhz=tuple(1200 if one else None for one in asked),
        requested_limit_w=tuple(limit_w if one else None for one in asked),
    )
    return msgspec.structs.replace(record, gpu=gpu)


def written(folder: Path, records: list[r.Record], seconds: range) -> duckdb.DuckDBPyConnection:
    fake.write(folder, [*records, *(fake.telemetry(NODE, second) for second in seconds)])
    return archive_reader.open_reader(folder).connection


def one(rows: list[dict[str, Any]]) -> dict[str, Any]:
    [row] = rows
    return row


@pytest.mark.parametrize("limit_w", [None, 600.0], ids=["a clock, as balanced grants", "a clock and a limit"])
def test_a_gpu_that_was_granted_nothing_is_not_controlled(tmp_path: Path, limit_w: float | None) -> None:
    commands = range(35, 150, 5)
    acks = [acked(second, grants="g", limit_w=limit_w) for second in commands]
    connection = written(tmp_path, [*(flagged(second) for second in commands), *acks], range(30, 150))
    saving = one(named(connection, "savings_holdout"))
    assert (saving["saving_ratio"], saving["controlled_units"], saving["holdout_units"]) == (0.25, 1, 1)
    arms = {row["arm"]: row["engines"] for row in named(connection, "latency_by_group")}
    assert arms == {"controlled": 1, "holdout": 1}
    assert one(named(connection, "loop_time"))["commands"] == len(commands)


def test_nothing_granted_anywhere_is_no_comparison_and_no_loop(tmp_path: Path) -> None:
    acks = [acked(second, grants="") for second in MINUTE_1[::5]]
    connection = written(tmp_path, [*(flagged(second) for second in MINUTE_1[::5]), *acks], MINUTE_1)
    for name in ("savings_holdout", "latency_by_group", "loop_time"):
        assert all(row.get("arm") == "holdout" for row in named(connection, name)), name


def test_the_commands_that_grant_nothing_are_told_apart(tmp_path: Path) -> None:
    entry = fake.ledger(NODE, "GPU-g", 60, effect_w=-100.0)
    nothing = msgspec.structs.replace(entry, gpu_uuid="GPU-l", requested_limit_w=None, max_sm_mhz=None, effect_w=0.0)
    rows = named(written(tmp_path, [entry, nothing], MINUTE_1), "commands_and_effect")
    assert {row["granting"]: row["effect_w_mean"] for row in rows} == {True: -100.0, False: 0.0}


def test_a_gpu_flagged_once_and_controlled_later_is_controlled(tmp_path: Path) -> None:
    envelopes = [flagged(second, g=second == 30) for second in range(30, 150, 5)]
    acks = [acked(second, grants="g") for second in MINUTE_2[1::5]]
    connection = written(tmp_path, [*envelopes, *acks], range(30, 150))
    saving = one(named(connection, "savings_holdout"))
    assert (saving["saving_ratio"], saving["controlled_units"], saving["holdout_units"]) == (0.25, 1, 1)


def test_a_gpu_granted_in_the_span_is_in_no_holdout_before_or_after(tmp_path: Path) -> None:
    envelopes = [flagged(second, g=second not in MINUTE_2) for second in range(30, 210, 5)]
    acks = [acked(second, grants="g" if second in MINUTE_2 else "") for second in range(31, 210, 5)]
    # The engine that is left alone takes the controlled side in the third minute, so that the minute is compared.
    acks += [acked(second, grants="l") for second in MINUTE_3[2::5]]
    connection = written(tmp_path, [*envelopes, *acks], range(30, 210))
    saving = one(named(connection, "savings_holdout"))
    assert (saving["power_w_holdout_mean"], saving["holdout_units"], saving["controlled_units"]) == (400.0, 1, 2)
    engines = {row["arm"]: row["engines"] for row in named(connection, "latency_by_group")}
    assert engines == {"controlled": 2, "holdout": 1}


def test_the_newest_flag_is_carried_forward_and_unknown_before_the_first(tmp_path: Path) -> None:
    envelopes = [flagged(95, l=True), flagged(140, l=False)]
    connection = written(tmp_path, [*envelopes], range(30, 210))
    rows = connection.execute("SELECT uuid, count(*) FROM gpu_arm WHERE arm = 'holdout' GROUP BY uuid").fetchall()
    assert rows == [("GPU-h", 2)], "two of three minutes: the newest word on the other one is no"
    late = written(tmp_path / "late", [flagged(35, l=False), flagged(95, l=True)], range(30, 210))
    rows = late.execute("SELECT count(*) FROM gpu_arm WHERE uuid = 'GPU-l' AND arm = 'holdout'").fetchall()
    assert rows == [(2,)]
