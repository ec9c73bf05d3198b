"""Compaction: fewer files, the same rows, at every step and for every reader."""

from __future__ import annotations

import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import duckdb
import pytest

from streams import compaction
from streams.sinks import archive_files, archive_reader
from streams.sinks.parquet import files_of
from tests.fakes import archive as fake
from tests.fakes.archive_rig import Rig, rows_of

LATER_NS = fake.START_NS + 6 * 3600 * 10**9
GRACE_NS = int(compaction.GRACE_S * 1e9) + 1


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Many small files in two hours."""
    rig = Rig(tmp_path)
    rig.start()
    for start in range(0, 120, 10):
        rig.send([fake.telemetry(node, second) for second in range(start, start + 10) for node in fake.NODES])
        rig.feed()
        rig.settle()
    return rig.archive


def identities(archive: Path) -> Counter[tuple[str, int, str]]:
    return Counter(rows_of(archive, "telemetry.node", "node, seq, uuid"))


EXPECTED = Counter(
    {
        (node, second, uuid): 1
        for second in range(120)
        for node, groups in fake.NODES.items()
        for _, gpus, _, _ in groups
        for uuid in gpus
    }
)


def plain_glob(archive: Path) -> int:
    """Rows that somebody counts who knows nothing of manifests."""
    with duckdb.connect() as connection:
        pattern = f"{archive}/topic=telemetry.node/date=*/hour=*/*.parquet"
        return int(connection.execute("SELECT count(*) FROM read_parquet(?)", [pattern]).fetchall()[0][0])


def test_each_step_shows_every_row_once_to_every_reader(archive: Path) -> None:
    for step in range(4):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
        assert identities(archive) == EXPECTED
        assert plain_glob(archive) == EXPECTED.total()
        connection = archive_reader.open_reader(archive).connection
        assert connection.execute("SELECT count(*) FROM telemetry_node").fetchall() == [(EXPECTED.total(),)]
        assert connection.execute("SELECT sum(samples) FROM gpu_minute").fetchall() == [(EXPECTED.total(),)]
    left = [path for path in archive.rglob("*") if path.is_file() and "_state" not in path.parts]
    assert sum("topic=telemetry.node" in path.parts for path in left) == 2
    assert not [path for path in left if path.suffix in {".json", ".staged"}]
    assert sum("_rollup" in path.parts and "gpu_minute" in str(path) for path in left) == 2


def test_a_crash_between_any_two_file_operations_loses_nothing(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations = ("rename", "unlink")
    for fail_at in range(1, 60):
        left = fail_at

        def countdown(real: object) -> object:
            def wrapped(self: Path, *args: object, **kwargs: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt("the process dies here")
                return real(self, *args, **kwargs)  # type: ignore[operator]

            return wrapped

        with monkeypatch.context() as patched:
            for name in operations:
                patched.setattr(Path, name, countdown(getattr(Path, name)))
            with suppress(KeyboardInterrupt):
                compaction.compact(archive, now_ns=LATER_NS + fail_at * GRACE_NS)
        assert identities(archive) == EXPECTED, f"after operation {fail_at}"
    for step in range(60, 64):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
    assert identities(archive) == EXPECTED and plain_glob(archive) == EXPECTED.total()


def test_readers_beside_a_compaction_never_see_both_or_neither(archive: Path) -> None:
    done, counts, faults = threading.Event(), [0, 0], list[int]()

    def read(number: int) -> None:
        while not done.is_set():
            found = identities(archive)
            counts[number] += 1
            if found != EXPECTED:
                faults.append(found.total())

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    try:
        for step in range(4):
            compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
            # The grace time, in reads instead of minutes: whoever had listed the files has read them.
            target = [count + 2 for count in counts]
            deadline = time.monotonic() + 30
            while any(count < least for count, least in zip(counts, target, strict=True)):
                assert time.monotonic() < deadline, "the readers stand still"
                time.sleep(0.005)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert faults == []


def test_late_rows_are_merged_by_a_later_pass_and_counted_once(archive: Path) -> None:
    for step in range(3):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
    late = [fake.telemetry("node-a", second, boot_id="late") for second in range(5)]
    fake.write(archive, late)
    for step in range(3, 7):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
        assert identities(archive).total() == EXPECTED.total() + 5 * 4
        connection = archive_reader.open_reader(archive).connection
        assert connection.execute("SELECT sum(samples) FROM gpu_minute").fetchall() == [(EXPECTED.total() + 20,)]


def test_an_hour_that_grows_is_merged_only_when_it_has_many_small_files(archive: Path) -> None:
    now_ns = fake.START_NS + 120 * 10**9
    assert compaction.compact(archive, now_ns=now_ns).merged == 0
    report = compaction.compact(archive, now_ns=now_ns, many=3)
    assert report.merged == 10 and report.rolled_up > 0
    assert identities(archive) == EXPECTED


def test_only_own_partitions_are_touched(archive: Path) -> None:
    assert compaction.compact(archive, now_ns=LATER_NS, partitions=frozenset({1})).merged == 0
    assert compaction.compact(archive, now_ns=LATER_NS, partitions=frozenset({0})).merged == 10


def test_a_pass_that_is_told_to_end_stops_before_the_next_hour(archive: Path) -> None:
    assert compaction.compact(archive, now_ns=LATER_NS, ending=lambda: True).merged == 0


def test_a_broken_file_is_left_where_it_is_and_the_rest_merged(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = archive_files.hour_folders(archive, "telemetry.node")[0]
    broken = files_of(folder, 0)[1][1]
    fake.spoil(broken, "torn")
    for step in range(3):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
    assert sorted(path.name.count("-m") for path in folder.glob("*.parquet")) == [0, 1]
    assert broken.exists() and f"{broken} cannot be read" in caplog.text


def test_a_file_system_without_links_gets_a_copy(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("os.link", refuse)
    for step in range(4):
        compaction.compact(archive, now_ns=LATER_NS + step * GRACE_NS)
    assert identities(archive) == EXPECTED and plain_glob(archive) == EXPECTED.total()


def test_a_manifest_that_cannot_be_read_is_named_and_its_inputs_count(
    archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compaction.compact(archive, now_ns=LATER_NS)
    folder = archive_files.hour_folders(archive, "telemetry.node")[0]
    archive_files.manifest_path(folder, 0).write_text("{")
    assert identities(archive) == EXPECTED
    assert "remove it, compaction makes a new one" in caplog.text


def test_rollups_of_an_older_definition_are_not_read_and_go_away(archive: Path) -> None:
    compaction.compact(archive, now_ns=LATER_NS)
    [folder] = (archive / "_rollup").glob("gpu_minute-*")
    folder.rename(folder.with_name("gpu_minute-0ld0ld0l"))
    connection = archive_reader.open_reader(archive).connection
    assert connection.execute("SELECT sum(samples) FROM gpu_minute").fetchall() == [(EXPECTED.total(),)]
    compaction.compact(archive, now_ns=time.time_ns() + GRACE_NS)
    assert list((archive / "_rollup" / "gpu_minute-0ld0ld0l").rglob("*.parquet")) == []
