"""The archive job without Kafka: every record once, whatever is read twice, sent twice, broken or in the way."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from streams.contract import failpoints
from streams.contract import topics as t
from streams.errors import DeliveryFailed, StreamsError
from streams.jobs.archive_buffer import Fenced
from streams.sinks import parquet
from tests.fakes import archive as fake
from tests.fakes.archive_rig import Rig

GPUS_A, GPUS_B = 4, 3


@pytest.fixture(autouse=True)
def _disarm() -> None:
    failpoints.arm("")


def identities(rig: Rig, dataset: str = "telemetry.node") -> Counter[tuple[str, str, int]]:
    return Counter(rig.rows(dataset, "node, boot_id, seq"))


def test_everything_that_the_topics_say_is_archived_once(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send(fake.all_records())
    rig.run(batch=37)
    assert len(rig.rows("telemetry.node")) == fake.SECONDS * (GPUS_A + GPUS_B)
    assert len(rig.rows("host.reading")) == fake.SECONDS * 2
    assert len(rig.rows("engine.reading")) == fake.SECONDS * 3
    assert len(rig.rows("features.gpu")) == fake.SECONDS * (GPUS_A + GPUS_B)
    commands = fake.SECONDS // 5 * (GPUS_A + GPUS_B)
    assert len(rig.rows("power.desired")) == commands
    assert len(rig.rows("power.applied")) == commands + GPUS_A
    counts = [len(rig.rows(name)) for name in ("anomaly.gpu", "ledger.command", "operator.intent", "alert")]
    assert counts == [1, 2, 1, 1]
    assert rig.committed == {place: len(members) for place, members in rig.log.items()}


def test_a_record_lands_in_the_hour_of_its_own_time(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", 0), fake.telemetry("node-a", 100)])
    rig.run()
    hours = sorted(path.parent.name for path in rig.archive.glob("topic=telemetry.node/*/*/*.parquet"))
    assert hours == ["hour=10", "hour=11"]


def test_offsets_are_released_only_after_the_flush(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(3)])
    rig.start()
    rig.feed()
    rig.tick()
    assert rig.committed == {} and rig.rows("telemetry.node") == []
    rig.settle()
    assert rig.committed == {(t.TELEMETRY.name, 0): 3}


def test_a_clean_stop_writes_what_is_held_and_the_next_start_does_not_repeat_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(5)])
    rig.start()
    rig.feed()
    rig.stop()
    assert len(identities(rig)) == 5
    rig.committed.clear()  # the commit did not get through
    rig.run()
    assert set(identities(rig).values()) == {GPUS_A} and len(identities(rig)) == 5


@pytest.mark.parametrize("batch", [7, 500])
@pytest.mark.parametrize("nth", [1, 2, 8])
@pytest.mark.parametrize(
    "name",
    ["archive.mid_rowgroup", "archive.before_footer", "archive.before_rename", "archive.after_rename_before_commit"],
)
def test_a_crash_at_a_failpoint_neither_loses_nor_doubles(tmp_path: Path, name: str, nth: int, batch: int) -> None:
    rig = Rig(tmp_path)
    records = [fake.telemetry(node, second) for second in range(80, 100) for node in fake.NODES]
    rig.send([*records, *(fake.features(node, second) for second in range(80, 100) for node in fake.NODES)])
    failpoints.arm(f"{name}:raise:{nth}")
    with pytest.raises(failpoints.FailpointRaised):
        rig.run()
    assert failpoints.count(name) == nth
    failpoints.arm("")
    rig.run(batch)
    for dataset, each in (("telemetry.node", (4, 3)), ("host.reading", (1, 1)), ("engine.reading", (2, 1))):
        found = identities(rig, dataset)
        assert found == {
            (node, "boot-1", second): count
            for node, count in zip(fake.NODES, each, strict=True)
            for second in range(80, 100)
        }
    assert len(rig.rows("features.gpu")) == 20 * 7
    assert list((rig.archive / parquet.TEMPORARY).glob("*")) == []


def test_a_message_that_its_sender_sent_twice_is_one_row(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in (0, 1, 2, 1, 2, 3)])
    rig.run()
    rig.send([fake.telemetry("node-a", second) for second in (2, 3, 4)])
    rig.feed()
    rig.settle()
    rig.send([fake.telemetry("node-a", second) for second in (0, 4, 5)])
    rig.run()  # a new process knows from the files
    assert identities(rig, "host.reading") == {("node-a", "boot-1", second): 1 for second in range(6)}


def test_a_gap_that_is_filled_later_is_not_taken_for_a_duplicate(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in (5, 6, 9)])
    rig.run()
    rig.send([fake.telemetry("node-a", second) for second in (7, 8, 8, 4, 9)])
    rig.run()
    assert identities(rig, "host.reading") == {("node-a", "boot-1", second): 1 for second in range(4, 10)}


def test_rare_records_sent_twice_are_one_row_across_a_restart(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    again = [
        fake.verdict(),
        fake.intent(),
        fake.alert(),
        fake.desired("node-a", 5),
        fake.applied("node-a", 5),
        fake.ledger("node-a", "GPU-a0", 5, effect_w=1.0),
    ]
    rig.send([*again, *again])
    rig.run()
    rig.send(again)
    rig.run()
    names = ("anomaly.gpu", "operator.intent", "alert", "power.desired", "power.applied", "ledger.command")
    assert [len(rig.rows(name)) for name in names] == [1, 1, 1, GPUS_A, GPUS_A, 1]


def test_a_topic_made_anew_counts_from_zero_and_overwrites_nothing(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(3)])
    rig.run()
    rig.log.clear()
    rig.committed.clear()
    rig.send([fake.telemetry("node-a", 10 + number, boot_id="boot-2", seq=number) for number in range(3)])
    rig.run()
    found = identities(rig, "host.reading")
    assert found == {("node-a", boot, second): 1 for boot in ("boot-1", "boot-2") for second in range(3)}


def test_what_does_not_decode_goes_to_the_dead_letters_exactly(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    poison = [b"", b"{", b"\xff\xfe", b'{"schema": 2}', b"[" * 5000]
    for number, value in enumerate(poison):
        rig.send([fake.telemetry("node-a", number)])
        rig.send_raw(t.TELEMETRY.name, value)
    rig.run()
    assert len(rig.rows("host.reading")) == len(poison)
    assert [(dead.topic, dead.offset, dead.component, value) for dead, _, value in rig.box.letters] == [
        (t.TELEMETRY.name, 2 * number + 1, "archive", value) for number, value in enumerate(poison)
    ]
    assert rig.committed == {(t.TELEMETRY.name, 0): 2 * len(poison)}


def test_a_value_that_fits_no_column_is_one_dead_letter_and_its_neighbours_are_stored(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    bad = msgspec.structs.replace(fake.features("node-a", 1), features={"ts": (1.0,) * GPUS_A})
    rig.send([fake.features("node-a", 0), bad, fake.features("node-a", 2)])
    rig.run()
    assert len(rig.rows("features.gpu")) == 2 * GPUS_A
    [(dead, _, _)] = rig.box.letters
    assert dead.offset == 1 and "'ts' has the name of an archive column" in dead.error


def test_a_tombstone_of_a_compacted_topic_is_no_poison(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send_raw(t.INTENT.name, None)
    rig.send([fake.intent()])
    rig.run()
    assert rig.box.letters == [] and len(rig.rows("operator.intent")) == 1


def test_offsets_wait_for_their_dead_letters(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send_raw(t.TELEMETRY.name, b"{")
    rig.box.refused = True
    with pytest.raises(DeliveryFailed, match="refused by the fake"):
        rig.run()
    assert rig.committed == {}


def test_a_full_disk_loses_nothing_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(3)])
    rig.start()
    rig.feed()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", _no_space)
        rig.settle()
        assert rig.committed == {} and rig.rows("telemetry.node") == []
    assert "No space left on device" in caplog.text and "nothing is lost, tried again in 5 s" in caplog.text
    assert list((rig.archive / parquet.TEMPORARY).glob("*")) == []
    rig.settle()
    assert set(identities(rig).values()) == {GPUS_A} and len(identities(rig)) == 3
    assert rig.committed == {(t.TELEMETRY.name, 0): 3}


def _no_space(handle: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_full_half_way_through_a_flush_doubles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(3)])
    rig.start()
    rig.feed()
    written: list[str] = []
    real = parquet.write

    def second_fails(archive: Path, dataset: str, hour: int, **rest: object) -> Path:
        if len(written) == 1:
            written.append("failed")
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(dataset)
        return real(archive, dataset, hour, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(parquet, "write", second_fails)
    rig.settle()
    rig.settle()
    assert "failed" in written
    assert len(rig.rows("host.reading")) == 3 and len(rig.rows("telemetry.node")) == 3 * GPUS_A
    assert len(rig.rows("engine.reading")) == 3 * 2


def test_a_disk_that_stays_full_stops_the_worker_before_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", second) for second in range(1200)])
    monkeypatch.setattr("streams.jobs.archive.FLUSH_ROWS", 1000)
    monkeypatch.setattr("streams.jobs.archive.MAX_ROWS", 4000)
    monkeypatch.setattr(os, "fsync", _no_space)
    rig_write = parquet.write_text
    monkeypatch.setattr(parquet, "write_text", lambda path, text: _plain_write(path, text))
    rig.start()
    with pytest.raises(OSError, match="rows wait and the disk takes none; free space below"):
        rig.feed()
    assert rig.committed == {} and rig_write is not parquet.write_text


def _plain_write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_worker_whose_partition_was_taken_over_writes_nothing(tmp_path: Path) -> None:
    old, new = Rig(tmp_path), Rig(tmp_path)
    records = [fake.telemetry("node-a", second) for second in range(3)]
    old.send(records)
    new.send(records)
    old.start()
    old.feed()
    new.run()  # the group gave the partition to another worker while the old one was frozen
    with pytest.raises(Fenced, match="belongs to another worker now"):
        old.settle()
    assert old.committed == {}
    assert identities(new, "host.reading") == {("node-a", "boot-1", second): 1 for second in range(3)}


def test_a_folder_that_cannot_be_made_is_named_at_start(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("a file in the way")
    with pytest.raises(StreamsError, match=r"the archive .*archive cannot be made: .*; set EO_DATA_DIR"):
        Rig(tmp_path).start()


def test_marks_survive_in_a_snapshot_when_the_files_are_compacted_away(tmp_path: Path) -> None:
    rig = Rig(tmp_path, flush_s=10)
    rig.send([fake.telemetry("node-a", 0)])
    rig.run()
    for second in range(1, 10):
        rig.send([fake.telemetry("node-a", second)])
        rig.feed()
        rig.settle()
    [marks] = (rig.archive / "_state").glob("*.marks.json")
    assert '"node-a"' in marks.read_text()
    for path in rig.archive.glob("topic=host.reading/*/*/*.parquet"):
        path.unlink()
    rig.send([fake.telemetry("node-a", 0), fake.telemetry("node-a", 20)])
    rig.run()
    assert [seq for (_, _, seq) in identities(rig, "host.reading")] == [20]


def test_a_torn_marks_file_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.telemetry("node-a", 0)])
    rig.run()
    (rig.archive / "_state" / f"{t.TELEMETRY.name}-p0.marks.json").write_text('{"last')
    rig.send([fake.telemetry("node-a", 0), fake.telemetry("node-a", 1)])
    rig.run()
    assert len(rig.rows("host.reading")) == 2
    assert "is not readable" in caplog.text and "the newest files are read instead" in caplog.text


def test_commands_of_a_new_broker_that_counts_anew_are_no_duplicates(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.send([fake.desired("node-a", 5)])
    rig.run()
    rig.log.clear()
    rig.committed.clear()
    later = msgspec.structs.replace(fake.desired("node-a", 5), issued_at_ns=fake.START_NS + 99_000_000_000)
    rig.send([later])
    rig.run()
    assert len(rig.rows("power.desired")) == 2 * GPUS_A
