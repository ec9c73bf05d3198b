"""Marks of what was seen: laws."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streams.jobs.archive_marks import MAX_BOOTS, MAX_HOLES, RecentMarks, SeqMarks

SEQS = st.lists(st.integers(0, 200), max_size=80)


@given(SEQS)
def test_each_number_is_fresh_exactly_once(seqs: list[int]) -> None:
    marks, seen = SeqMarks(), set[int]()
    for seq in seqs:
        assert marks.fresh("n", "b", seq) is (seq not in seen)
        seen.add(seq)


@given(SEQS, SEQS)
def test_a_snapshot_knows_what_its_marks_knew(before: list[int], after: list[int]) -> None:
    marks = SeqMarks()
    for seq in before:
        marks.fresh("n", "b", seq)
    restored = SeqMarks()
    snapshot = SeqMarks.peek(marks.snapshot(7))
    restored.restore(snapshot)
    assert snapshot.last_offset == 7
    assert [restored.fresh("n", "b", seq) for seq in after] == [marks.fresh("n", "b", seq) for seq in after]


def test_nodes_and_boots_do_not_mix() -> None:
    marks = SeqMarks()
    assert all(marks.fresh(node, boot, 1) for node in ("a", "b") for boot in ("x", "y"))
    assert not marks.fresh("a", "x", 1)


def test_only_the_newest_boots_of_a_node_are_kept() -> None:
    marks = SeqMarks()
    for boot in range(MAX_BOOTS + 1):
        marks.fresh("n", f"boot-{boot}", 1)
    assert not marks.fresh("n", "boot-1", 1)
    assert marks.fresh("n", "boot-0", 1)


def test_a_gap_too_wide_to_be_disorder_is_not_remembered() -> None:
    marks = SeqMarks()
    marks.fresh("n", "b", 0)
    marks.fresh("n", "b", MAX_HOLES + 5)
    assert not marks.fresh("n", "b", 3)


def test_recent_identities_are_bounded() -> None:
    marks = RecentMarks(limit=2)
    assert marks.fresh((1,)) and marks.fresh((2,)) and not marks.fresh((1,))
    assert marks.fresh((3,)) and marks.fresh((1,)) and not marks.fresh((3,))
