"""Two archive workers on a real broker and one archive: killed, joined and ended midway, every sample is one row."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.archive_rig import rows_of
from tests.faults.worker_rig import Fleet, Identity, Worker, until

pytestmark = pytest.mark.integration


class Site:
    """Workers of one group that share a data folder, as they do on a shared file system."""

    def __init__(self, bootstrap: str, folder: Path, cluster: str) -> None:
        self._bootstrap, self.folder, self._cluster = bootstrap, folder, cluster
        self.workers: list[Worker] = []

    def begin(self, failpoint: str = "") -> Worker:
        given = {"EO_ARCHIVE_FLUSH_S": "0.3", "EO_FAILPOINT": failpoint}
        command = ("-m", "agents", "worker", "archive")
        self.workers.append(Worker(self._bootstrap, self.folder, *command, cluster=self._cluster, **given))
        return self.workers[-1]

    def rows(self, fleet: Fleet, dataset: str) -> Counter[Identity]:
        found = rows_of(self.folder / "archive", dataset, "node, seq")
        return Counter((node, seq) for node, seq in found if node.startswith(f"{fleet.name}-"))

    def writers(self, fleet: Fleet) -> int:
        """Partitions that hold rows of this fleet."""
        found = rows_of(self.folder / "archive", "telemetry.node", "node, partition")
        return len({partition for node, partition in found if node.startswith(f"{fleet.name}-")})


@pytest.fixture
def site(topics: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(topics, tmp_path / "data", f"two-{tmp_path.name}")
    yield made
    for worker in made.workers:
        worker.close()


FAILPOINT = "archive.after_rename_before_commit"  # the rows are there and their offsets are not: the next owner decides


def test_rows_archived_are_samples_acknowledged(topics: str, site: Site) -> None:
    fleet = Fleet(topics, nodes=12)
    first = site.begin(f"{FAILPOINT}:kill:12")  # the twelfth file: both workers have been writing by then
    first.wait_ready()
    second = site.begin()
    second.wait_ready()
    fleet.start()
    try:
        assert first.wait_end() == -signal.SIGKILL, f"{FAILPOINT} was not reached: {first.text()[-800:]}"
        third = site.begin()
        third.wait_ready(timeout_s=60)
        before = len(fleet.sent)
        until(lambda: len(fleet.sent) > before + 200, 30, "samples while two workers share the partitions")
        assert second.stop() == 0  # hands over what it holds
    finally:
        fleet.stop()
    expected = Counter(dict.fromkeys(fleet.sent, 1))
    until(lambda: site.rows(fleet, "telemetry.node") >= expected, 90, f"rows of {len(expected)} samples")
    assert third.stop() == 0
    assert site.rows(fleet, "telemetry.node") == expected
    assert site.writers(fleet) > 1
    assert not any(path.suffix == ".parquet" for path in (site.folder / "archive" / "_tmp").iterdir())
