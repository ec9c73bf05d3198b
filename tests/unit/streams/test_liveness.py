"""A worker is alive while its commits move or nothing waits; otherwise it says where it stands."""

from __future__ import annotations

from streams.liveness import Liveness, Standing
from streams.progress import Partition

TP = Partition("energy.telemetry.node.v1", 7)


def at(committed: int | None, position: int | None, end: int, *, idle: bool = False) -> Standing:
    return Standing(TP, committed, position, end, idle)


def test_lag_is_what_is_not_committed() -> None:
    assert at(100, 180, 200).lag == 100
    assert at(None, 150, 200).lag == 50
    assert at(None, None, 200).lag == 200


def test_transaction_markers_behind_the_last_record_are_no_lag() -> None:
    assert at(99, 101, 101, idle=True).lag == 0
    assert at(99, 100, 101, idle=True).lag == 2
    assert at(99, 101, 101, idle=False).lag == 2


def test_a_moving_commit_is_alive_however_large_the_lag() -> None:
    live = Liveness(10)
    assert all(live.look([at(n, n, 1_000_000)], 5) is None for n in range(50))


def test_standing_still_with_lag_is_told_after_the_stall_time_with_every_number() -> None:
    live = Liveness(10)
    assert live.look([at(100, 180, 200)], 5) is None
    assert live.age_s(TP) == 5
    reason = live.look([at(100, 180, 250)], 5)
    assert reason == (
        "no progress for 10 s on energy.telemetry.node.v1 partition 7: committed offset 100, reader at 180, "
        "log ends at 250 (150 records wait); exiting so that the supervisor starts a fresh worker"
    )


def test_a_reader_that_does_not_answer_is_named_unknown() -> None:
    reason = Liveness(1).look([at(None, None, 5)], 1)
    assert reason is not None and "committed nothing, reader at unknown" in reason


def test_standing_still_without_lag_is_alive() -> None:
    live = Liveness(10)
    assert all(live.look([at(200, 200, 200, idle=True)], 60) is None for _ in range(5))
    assert live.age_s(TP) == 0


def test_time_starts_again_when_the_commit_moves_or_the_partition_goes() -> None:
    live = Liveness(10)
    live.look([at(1, 5, 9)], 9)
    live.look([at(2, 5, 9)], 9)
    assert live.age_s(TP) == 0
    live.look([at(2, 5, 9)], 9)
    live.look([], 9)
    assert live.look([at(2, 5, 9)], 9) is None


def test_the_partition_that_stands_longest_is_named() -> None:
    live, other = Liveness(10), Partition("energy.telemetry.node.v1", 8)
    live.look([at(1, 1, 9)], 6)
    reason = live.look([at(1, 1, 9), Standing(other, 4, 4, 9, False)], 11)
    assert reason is not None and "for 17 s" in reason and "partition 7" in reason


def test_a_reader_that_holds_what_it_read_and_never_committed_is_not_alive() -> None:
    """It has read to the end at every look: nothing would wait behind it, and nothing of it is durable."""
    live = Liveness(3.0)
    reasons = [live.look([at(None, end, end)], 1.0) for end in (10, 20, 30)]
    assert reasons[:2] == [None, None] and reasons[2] is not None and "committed nothing" in reasons[2]
