"""Promises of the spool one by one: order, bounds, exact loss counts, torn and damaged files, a full or broken disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from agents.node import spool_disk
from agents.node.errors import SpoolError, SpoolUnusable
from agents.node.spool import NOT_TAKEN, Spool
from agents.node.spool_format import frame


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, *, max_bytes: int = 1 << 20, segment_bytes: int = 4096, clock: Clock | None = None) -> Spool:
    return Spool(folder, max_bytes=max_bytes, segment_bytes=segment_bytes, clock=clock or Clock())


def fill(spool: Spool, first: int, last: int, *, size: int = 100) -> None:
    for number in range(first, last + 1):
        assert spool.append(b"node", value(number, size)) == number


def value(number: int, size: int = 100) -> bytes:
    return f"{number}:".encode().ljust(size, b"x")


def crash(spool: Spool) -> None:
    """The process is gone: no cursor, no sync, only what the kernel has."""
    if spool._fd is not None:
        os.close(spool._fd)
    os.close(spool._lock)


def numbers(spool: Spool) -> list[int]:
    out: list[int] = []
    after = 0
    while batch := spool.read(after, 7):
        out += [record.number for record in batch]
        after = batch[-1].number
    return out


def test_reads_in_order_what_was_appended(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 200)
    assert numbers(spool) == list(range(1, 201))
    assert spool.read(5, 1)[0].value == value(6)
    assert spool.read(5, 1)[0].key == b"node"
    assert spool.depth == 200
    assert spool.read(200, 5) == []
    spool.close()


def test_reads_old_segments_from_disk_and_new_ones_from_memory(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 200)
    assert 1 not in spool._tail
    assert 200 in spool._tail
    assert [record.value for record in spool.read(0, 3)] == [value(1), value(2), value(3)]
    spool.close()


def test_acknowledged_records_are_gone_and_their_files_too(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 200)
    before = len(spool_disk.segments(tmp_path))
    spool.ack(150)
    assert spool.depth == 50
    assert numbers(spool) == list(range(151, 201))
    assert len(spool_disk.segments(tmp_path)) < before
    spool.ack(10)
    assert spool.acked == 150
    spool.close()


def test_an_acknowledgement_beyond_what_was_appended_acknowledges_no_later_record(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 5)
    spool.ack(9)
    assert (spool.acked, spool.depth) == (5, 0)
    fill(spool, 6, 9)
    assert (numbers(spool), spool.depth) == ([6, 7, 8, 9], 4)
    spool.close()


def test_numbers_go_on_after_a_restart_and_nothing_is_lost(tmp_path: Path) -> None:
    spool = make(tmp_path)
    first_boot = spool.boot_id
    fill(spool, 1, 50)
    spool.ack(20)
    spool.close()
    again = make(tmp_path)
    assert again.boot_id != first_boot
    assert (again.depth, again.lost_total, again.acked) == (30, 0, 20)
    assert again.append(b"node", b"new") == 51
    assert numbers(again) == list(range(21, 52))
    again.close()


def test_numbers_go_on_when_everything_was_delivered(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 9)
    spool.ack(9)
    spool.close()
    again = make(tmp_path)
    assert again.append(b"node", b"x") == 10
    assert again.lost_total == 0
    again.close()


def test_what_a_killed_process_left_unsynced_is_made_durable_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 5)
    crash(spool)
    newest = spool_disk.segments(tmp_path)[-1].stat().st_ino
    synced: list[int] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    again = make(tmp_path)
    assert newest in synced
    assert numbers(again) == [1, 2, 3, 4, 5] and again.lost_total == 0
    again.close()


def test_a_disk_that_cannot_sync_what_was_recovered_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 5)
    crash(spool)

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(SpoolUnusable, match=r"cannot be read or made durable \(Input/output error\); check the disk"):
        make(tmp_path)


def test_a_lagging_cursor_costs_duplicates_and_counts_no_loss(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 200)
    spool.ack(100)
    fill(spool, 201, 201)
    spool.ack(199)
    crash(spool)
    again = make(tmp_path)
    assert again.lost_total == 0
    found = numbers(again)
    assert found[-1] == 201
    assert found == list(range(found[0], 202))
    again.close()


def test_the_oldest_segment_is_dropped_at_the_bound_and_counted_exactly(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=16384)
    fill(spool, 1, 400)
    found = numbers(spool)
    assert spool.size_bytes <= 16384
    assert found == list(range(found[0], 401))
    assert spool.lost_total == 400 - len(found)
    assert spool.depth == len(found)
    spool.close()
    again = make(tmp_path, max_bytes=16384)
    assert (again.lost_total, numbers(again)) == (0, found)
    again.close()


def test_what_is_being_sent_is_dropped_last(tmp_path: Path) -> None:
    spool = make(tmp_path, max_bytes=16384)
    fill(spool, 1, 40)
    spool.pin(40)
    for number in range(41, 401):
        spool.append(b"node", value(number))
    found = numbers(spool)
    assert found[:33] == list(range(1, 34))
    assert spool.lost_total == 400 - len(found)
    assert spool.depth == len(found)
    spool.ack(400)
    assert (spool.depth, spool.lost_total) == (0, 400 - len(found))
    spool.close()


def test_a_crash_between_counting_and_removing_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = make(tmp_path, max_bytes=16384)
    fill(spool, 1, 100)
    kept = {path: path.read_bytes() for path in spool_disk.segments(tmp_path)}
    fill(spool, 101, 200)
    lost = spool.lost_total
    assert lost > 0
    crash(spool)
    for path, data in kept.items():
        if not path.exists():
            path.write_bytes(data)
    again = make(tmp_path, max_bytes=16384)
    assert again.lost_total == 0
    assert len(numbers(again)) == 200 - lost
    again.close()


@pytest.mark.parametrize("cut", range(1, 3 * len(frame(1, b"node", value(1))) + 1))
def test_torn_at_every_byte_of_the_last_three_records(tmp_path: Path, cut: int) -> None:
    spool = make(tmp_path, segment_bytes=1 << 16)
    fill(spool, 1, 10)
    crash(spool)
    (path,) = spool_disk.segments(tmp_path)
    size, length = path.stat().st_size, len(frame(1, b"node", value(1)))
    os.truncate(path, size - cut)
    whole, torn = (size - cut) // length, (size - cut) % length > 0
    again = make(tmp_path, segment_bytes=1 << 16)
    assert numbers(again) == list(range(1, whole + 1))
    assert again.lost_total == int(torn)
    assert path.stat().st_size == whole * length
    assert again.append(b"node", b"next") == whole + 1
    again.close()


@pytest.mark.parametrize("where", ["length", "checksum", "number", "value", "zeros"])
def test_damage_in_the_middle_is_stepped_over_and_counted(tmp_path: Path, where: str) -> None:
    spool = make(tmp_path, segment_bytes=1 << 16)
    fill(spool, 1, 30)
    spool.close()
    (path,) = spool_disk.segments(tmp_path)
    data, length = bytearray(path.read_bytes()), len(frame(1, b"node", value(1)))
    at = 10 * length
    offset = {"length": 1, "checksum": 5, "number": 12, "value": 60, "zeros": 0}[where]
    if where == "zeros":
        data[at : at + 3 * length] = bytes(3 * length)
    else:
        data[at + offset] ^= 0xFF
    path.write_bytes(bytes(data))
    gone = {11, 12, 13} if where == "zeros" else {11}
    again = make(tmp_path, segment_bytes=1 << 16)
    assert numbers(again) == [n for n in range(1, 31) if n not in gone]
    assert again.lost_total == len(gone)
    assert again.depth == 30 - len(gone)
    again.ack(30)
    assert again.depth == 0
    again.close()


def test_a_long_zeroed_stretch_is_stepped_over(tmp_path: Path) -> None:
    spool = make(tmp_path, segment_bytes=1 << 18, max_bytes=1 << 20)
    fill(spool, 1, 1500)
    spool.close()
    (path,) = spool_disk.segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[5000:90000] = bytes(85000)
    path.write_bytes(bytes(data))
    again = make(tmp_path, segment_bytes=1 << 18, max_bytes=1 << 20)
    found = numbers(again)
    assert found[-1] == 1500
    assert len(found) == 1500 - again.lost_total
    assert again.lost_total == 85000 // len(frame(1, b"node", value(1))) + 2
    again.close()


def test_damage_that_comes_while_running_is_counted_too(tmp_path: Path) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 200)
    first = spool_disk.segments(tmp_path)[0]
    data = bytearray(first.read_bytes())
    data[60] ^= 0xFF
    first.write_bytes(bytes(data))
    assert numbers(spool) == list(range(2, 201))
    assert (spool.lost_total, spool.depth) == (1, 199)
    spool_disk.segments(tmp_path)[1].unlink()
    found = numbers(spool)
    assert spool.lost_total == 200 - len(found)
    spool.close()


@pytest.mark.parametrize("text", [b"", b"junk", b'00000000 {"acked": 5, "gaps": []}'])
def test_a_damaged_cursor_means_duplicates(tmp_path: Path, text: bytes) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 10)
    spool.ack(5)
    spool.close()
    (tmp_path / "cursor").write_bytes(text)
    again = make(tmp_path)
    assert numbers(again) == list(range(1, 11))
    assert again.lost_total == 0
    again.close()


@pytest.mark.parametrize("text", [None, b"", b"junk"])
def test_without_a_cursor_what_was_trimmed_is_not_lost(tmp_path: Path, text: bytes | None) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 300)
    spool.ack(280)
    held = spool_disk.segments(tmp_path)
    spool.close()
    (tmp_path / "cursor").unlink()
    if text is not None:
        (tmp_path / "cursor").write_bytes(text)
    first = int(held[0].stem)
    assert first > 200
    again = make(tmp_path)
    assert numbers(again) == list(range(first, 301))
    assert (again.lost_total, again.depth) == (0, 301 - first)
    again.close()


@pytest.mark.parametrize("keep", [0, 50])
def test_a_zeroed_tail_is_counted_exactly_up_to_the_last_sync_and_once(tmp_path: Path, keep: int) -> None:
    clock = Clock()
    spool = make(tmp_path, segment_bytes=1 << 16, clock=clock)
    fill(spool, 1, 100)
    clock.now = 1.0
    assert spool.sync() is True
    fill(spool, 101, 104)
    crash(spool)
    (path,) = spool_disk.segments(tmp_path)
    length = len(frame(1, b"node", value(1)))
    path.write_bytes(path.read_bytes()[: keep * length] + bytes((104 - keep) * length))
    again = make(tmp_path, segment_bytes=1 << 16)
    assert (again.lost_total, again.depth) == (100 - keep, keep)
    assert again.append(b"node", b"next") == 101
    assert numbers(again) == [*range(1, keep + 1), 101]
    crash(again)
    third = make(tmp_path, segment_bytes=1 << 16)
    assert (third.lost_total, third.depth) == (0, keep + 1)
    third.close()


def test_a_full_disk_stops_taking_counts_and_recovers_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = make(tmp_path)
    fill(spool, 1, 5)
    real, room = os.write, [20]

    def write(fd: int, data: memoryview) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(fd, data[: room[0]])
        room[0] -= taken
        return taken

    monkeypatch.setattr(spool_disk.os, "write", write)
    assert spool.append(b"node", value(6)) == NOT_TAKEN
    assert spool.append(b"node", value(6)) == NOT_TAKEN
    assert (spool.full, spool.lost_total, spool.depth) == (True, 2, 5)
    room[0] = 1 << 20
    assert spool.append(b"node", value(6)) == 6
    assert spool.full is False
    crash(spool)
    monkeypatch.undo()
    again = make(tmp_path)
    assert numbers(again) == [1, 2, 3, 4, 5, 6]
    assert again.lost_total == 0
    again.close()


def test_a_disk_that_cannot_sync_ends_the_promise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    spool = make(tmp_path, clock=clock)
    fill(spool, 1, 5)

    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", fail)
    clock.now = 1.0
    with pytest.raises(SpoolError, match=r"could not be made durable .*check the disk"):
        spool.sync()
    monkeypatch.undo()
    with pytest.raises(SpoolError, match="check the disk"):
        spool.append(b"node", b"x")
    with pytest.raises(SpoolError):
        spool.sync(2.0)
    spool.close()


def test_syncs_at_most_once_per_interval(tmp_path: Path) -> None:
    clock = Clock()
    spool = make(tmp_path, clock=clock)
    fill(spool, 1, 3)
    assert spool.sync(0.4) is False
    assert spool.sync(0.5) is True
    assert spool.sync(0.9) is False
    spool.ack(2)
    clock.now = 1.0
    assert spool.sync() is True
    assert spool_disk.read_cursor(tmp_path / "cursor") == spool_disk.Cursor(acked=2, written=3)
    spool.close()


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(SpoolUnusable, match=r"spool folder .*file cannot be written .*EO_NODE_SPOOL_DIR"):
        make(blocked)


def test_two_writers_are_refused(tmp_path: Path) -> None:
    spool = make(tmp_path)
    with pytest.raises(SpoolUnusable, match="in use by another process; stop that agent"):
        make(tmp_path)
    spool.close()
    spool.close()
    make(tmp_path).close()


def test_sizes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpoolUnusable, match="more than a quarter of 10000 bytes"):
        Spool(tmp_path, max_bytes=10000, segment_bytes=5000)
