"""Commits never pass a batch whose effect is not durable, in whatever order batches are done."""

from __future__ import annotations

import random

import pytest

from streams.progress import Partition, Progress

TP = Partition("energy.telemetry.node.v1", 3)


def delivered(*lasts: int) -> Progress:
    progress = Progress()
    for last in lasts:
        progress.delivered(TP, last)
    return progress


def test_nothing_is_committable_before_the_first_batch_is_done() -> None:
    progress = delivered(499, 999)
    assert progress.committable(TP) is None
    progress.done(TP, 999)
    assert progress.committable(TP) is None
    assert not progress.idle(TP)


def test_a_late_first_batch_lets_all_behind_it_go() -> None:
    progress = delivered(499, 999, 1200)
    progress.done(TP, 999)
    progress.done(TP, 499)
    assert progress.committable(TP) == 1000
    progress.done(TP, 1200)
    assert progress.committable(TP) == 1201


def test_an_offset_is_offered_until_the_broker_has_it() -> None:
    progress = delivered(9)
    progress.done(TP, 9)
    assert progress.committable(TP) == progress.committable(TP) == 10
    progress.confirm([(TP, 10)])
    assert progress.committable(TP) is None
    assert progress.confirmed(TP) == 10
    assert progress.idle(TP)


def test_gaps_between_batches_need_no_care() -> None:
    progress = delivered(10, 5000)
    progress.done(TP, 10)
    progress.done(TP, 5000)
    assert progress.committable(TP) == 5001


def test_durable_offsets_commit_inside_a_batch_but_never_past_what_was_handed_out() -> None:
    progress = delivered(99, 199)
    progress.durable(TP, 49)
    assert progress.committable(TP) == 50
    progress.durable(TP, 150)
    assert progress.committable(TP) == 151
    progress.durable(TP, 10_000)
    assert progress.committable(TP) == 200
    progress.confirm([(TP, 200)])
    assert progress.idle(TP)


def test_a_batch_that_is_handed_out_twice_is_tracked_once() -> None:
    progress = delivered(99, 99, 50)
    progress.done(TP, 99)
    assert progress.committable(TP) == 100


def test_a_forgotten_partition_takes_nothing() -> None:
    progress = delivered(99)
    progress.forget([TP])
    progress.done(TP, 99)
    progress.durable(TP, 99)
    progress.confirm([(TP, 100)])
    assert progress.committable(TP) is None
    assert progress.confirmed(TP) is None
    assert list(progress.tracked()) == []


@pytest.mark.parametrize("seed", range(20))
def test_in_any_order_the_commit_is_the_last_of_the_done_run(seed: int) -> None:
    rng = random.Random(seed)
    lasts = sorted(rng.sample(range(10_000), 40))
    progress, done = delivered(*lasts), set()
    for last in rng.sample(lasts, len(lasts)):
        progress.done(TP, last)
        done.add(last)
        run = [one for index, one in enumerate(lasts) if set(lasts[: index + 1]) <= done]
        assert progress.committable(TP) == (run[-1] + 1 if run else None)


def test_partition_equals_the_clients_own_named_tuples() -> None:
    from aiokafka.structs import TopicPartition

    assert Partition("a", 1) == TopicPartition("a", 1)
    assert hash(Partition("a", 1)) == hash(TopicPartition("a", 1))
