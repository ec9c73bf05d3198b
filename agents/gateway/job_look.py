"""Keeps the newest look at the stream jobs, taken by a thread of its own: `/health` never waits for Kafka."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agents.cli.jobs import JobHealth, JobLook, JobWatch
from agents.gateway.periodic import Periodic

EVERY_S: Final = 5.0
OLD_S: Final = 30.0  # a look that is older says nothing of now


class JobLooks:
    """`thread` looks again and again; `look` may block for some seconds and never raises."""

    def __init__(
        self,
        jobs: tuple[str, ...],
        look: Callable[[], list[JobLook]],
        *,
        wall_ns: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self.jobs, self._look, self._monotonic = jobs, look, monotonic
        self._watch = JobWatch(wall_ns=wall_ns, monotonic=monotonic)
        self._kept: tuple[float, dict[str, JobHealth]] | None = None
        self.thread = Periodic("job-looks", EVERY_S, self.take)

    def take(self) -> None:
        """One look."""
        found = {one.job: one for one in self._watch.judge(self._look())}
        self._kept = (self._monotonic(), found)

    def newest(self) -> dict[str, JobHealth]:
        """Every watched job; what is not known is null and says why."""
        kept = self._kept
        if kept is None:
            return {job: _unknown(job, "not looked at yet") for job in self.jobs}
        age_s = self._monotonic() - kept[0]
        if age_s > OLD_S:
            return {
                job: _unknown(job, f"not looked at for {age_s:.0f} s: the broker is slow to answer")
                for job in self.jobs
            }
        return {job: kept[1].get(job) or _unknown(job, "not looked at") for job in self.jobs}


def _unknown(job: str, why: str) -> JobHealth:
    return JobHealth(job, None, None, None, None, why)
