"""One job's workers on a real broker, for the tests that kill one and start the next; a capper as a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fakes.capper_process import CapperProcess, capper_on_nvml
from tests.faults.worker_rig import Worker

if TYPE_CHECKING:
    from tests.integration.test_actuation import Site


class JobWorkers:
    """Processes of one job in one data folder, oldest first."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.started: list[Worker] = []

    def begin(self, job: str) -> Worker:
        command, site = ("-m", "agents", "worker", job), self._site
        self.started.append(Worker(site.bootstrap, site.layout.root, *command, cluster=site.cluster, EO_SNAPSHOT_S="1"))
        return self.started[-1]


@pytest.fixture
def capper() -> Iterator[CapperProcess]:
    """A node with two GPUs on the C stand-in for NVML; the test starts its capper."""
    with capper_on_nvml() as made:
        yield made


@pytest.fixture
def job_site(topics: str, tmp_path: Path) -> Site:
    from tests.integration.test_actuation import Site

    return Site(topics, tmp_path)


@pytest.fixture
def workers(job_site: Site) -> Iterator[JobWorkers]:
    made = JobWorkers(job_site)
    yield made
    for worker in made.started:
        worker.close()
