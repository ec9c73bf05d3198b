"""Whether each stream job lives and gets on, as the broker knows it: works for jobs on any host, and asks no job.

A job lives while its consumer group has a member (a worker that hangs loses its membership within its session time). It
gets on while its commits move, or while nothing waits. Every commit carries its time. It never joins a group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from agents.cli.lag import INPUTS
from streams.contract.kafka import committed_ns, security
from streams.contract.topics import DESIRED

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

Place = tuple[str, int]  # topic, partition
STALL_S: Final = 60.0  # as a worker's own EO_STALL_S: records that wait for so long without a commit
ASK_S: Final = 5.0
MARKER: Final = 1  # a transaction's end takes an offset that no reader ever commits


@dataclass(frozen=True, slots=True)
class JobLook:
    """What the broker said of one job at one moment. None = it did not say, and `problem` says why."""

    job: str
    group: str
    members: int | None = None
    lag_records: int | None = None
    overdue_records: int | None = None  # of these, older than STALL_S
    committed: Mapping[Place, int] = field(default_factory=dict)
    committed_ns: int | None = None  # when its newest commit was made, by the worker's clock
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class JobHealth:
    """One line of `/health` and `eo status`. `age_s` = since its last commit; None = unknown."""

    job: str
    live: bool | None
    ready: bool | None
    age_s: float | None
    lag_records: int | None
    problem: str | None


def judge(look: JobLook, now_ns: int, *, still_s: float | None = None) -> JobHealth:
    """What a look means; `still_s` = how long whoever looks has itself seen records wait without a commit."""
    age_s = None if look.committed_ns is None else round(max(0.0, (now_ns - look.committed_ns) / 1e9), 1)

    def told(live: bool | None, ready: bool | None, problem: str | None) -> JobHealth:
        return JobHealth(look.job, live, ready, age_s, look.lag_records, problem)

    if look.members is None:
        return told(None, None, look.problem)
    if look.members == 0:
        return told(False, False, f"no worker is in its group {look.group}; start it with `eo worker {look.job}`")
    if look.lag_records is None:
        return told(True, None, look.problem)
    if _stuck(look, age_s, still_s):
        since = "ever" if age_s is None else f"for {max(age_s, still_s or 0.0):.0f} s"
        why = f"{look.lag_records} records wait and nothing was committed {since}"
        return told(True, False, f"{why}; its log says why, and `eo worker {look.job}` starts it anew")
    return told(True, True, None)


def _stuck(look: JobLook, age_s: float | None, still_s: float | None) -> bool:
    if still_s is not None and still_s >= STALL_S:
        return True
    return bool(look.overdue_records) and (age_s is None or age_s >= STALL_S)


class JobWatch:
    """Judges look after look: it also sees what stands still by its own clock, whatever the clocks of others say."""

    def __init__(self, *, wall_ns: Callable[[], int], monotonic: Callable[[], float]) -> None:
        self._wall_ns, self._monotonic = wall_ns, monotonic
        self._seen: dict[str, tuple[Mapping[Place, int], float]] = {}

    def judge(self, looks: Iterable[JobLook]) -> list[JobHealth]:
        return [judge(look, self._wall_ns(), still_s=self._still_s(look)) for look in looks]

    def _still_s(self, look: JobLook) -> float | None:
        if look.members is None:
            return None
        now = self._monotonic()
        known = self._seen.get(look.job)
        if known is None or known[0] != look.committed or not look.lag_records:
            self._seen[look.job] = (look.committed, now)
            return None
        return now - known[1]


class JobProbe:
    """Asks one broker about the jobs of one cluster: some ten small requests. Blocking; `look` never raises."""

    def __init__(
        self,
        bootstrap: str,
        cluster: str,
        jobs: Collection[str] = tuple(INPUTS),
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        client_id: str = "eo-jobs",
    ) -> None:
        self._bootstrap, self._client_id, self._wall_ns = bootstrap, client_id, wall_ns
        self._groups = {job: f"eo-{cluster}-{job}" for job in jobs}
        self._admin: AdminClient | None = None

    def look(self) -> list[JobLook]:
        """One look at every job; what could not be asked says why."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        try:
            if self._admin is None:
                self._admin = AdminClient(
                    {"bootstrap.servers": self._bootstrap, "client.id": self._client_id, "log_level": 0, **security()}
                )
            places = self._places(self._admin)
            members = self._members(self._admin)
            committed = self._committed(self._admin)
            ends = _Ends(self._admin, places, self._wall_ns())
            return [self._one(job, members[job], committed[job], places, ends) for job in self._groups]
        except (KafkaException, TimeoutError, RuntimeError) as error:
            why = f"the broker at {self._bootstrap} cannot be asked about it ({_words(error)})"
            return [JobLook(job, group, problem=why) for job, group in self._groups.items()]

    def _places(self, admin: AdminClient) -> dict[str, list[int]]:
        topics = admin.list_topics(timeout=ASK_S).topics
        wanted = {topic.name for job in self._groups for topic in INPUTS.get(job, ())}
        return {name: sorted(topics[name].partitions) for name in wanted if name in topics}

    def _members(self, admin: AdminClient) -> dict[str, int | str]:
        """Members of each group, or why that is unknown."""
        from confluent_kafka import KafkaException

        asked = admin.describe_consumer_groups(list(self._groups.values()), request_timeout=ASK_S)
        found: dict[str, int | str] = {}
        for job, group in self._groups.items():
            try:
                found[job] = len(asked[group].result(ASK_S + 1).members)
            except (KafkaException, TimeoutError) as error:
                missing = "GROUP_ID_NOT_FOUND" in repr(error)
                found[job] = 0 if missing else f"its group {group} cannot be asked ({_words(error)}); {RIGHT}"
        return found

    def _committed(self, admin: AdminClient) -> dict[str, list[Any] | str]:
        """What each group has committed, or why that is unknown."""
        from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException

        asked = {
            job: admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=ASK_S)[group]
            for job, group in self._groups.items()
        }
        found: dict[str, list[Any] | str] = {}
        for job, future in asked.items():
            try:
                found[job] = list(future.result(ASK_S + 1).topic_partitions or ())
            except (KafkaException, TimeoutError) as error:
                missing = "GROUP_ID_NOT_FOUND" in repr(error)
                found[job] = [] if missing else f"its commits cannot be asked for ({_words(error)}); {RIGHT}"
        return found

    def _one(
        self,
        job: str,
        members: int | str,
        commits: list[Any] | str,
        places: Mapping[str, Sequence[int]],
        ends: _Ends,
    ) -> JobLook:
        group = self._groups[job]
        if isinstance(members, str) or isinstance(commits, str):
            why = members if isinstance(members, str) else str(commits)
            return JobLook(job, group, None if isinstance(members, str) else members, problem=why)
        committed = {(str(one.topic), int(one.partition)): int(one.offset) for one in commits if one.offset >= 0}
        inputs = [(topic.name, part) for topic in INPUTS.get(job, ()) for part in places.get(topic.name, ())]
        lag = overdue = 0
        for place in inputs:
            waiting, late = ends.behind(place, committed.get(place))
            lag, overdue = lag + waiting, overdue + late
        times = [at for one in commits if (at := committed_ns(_note(one))) is not None]
        return JobLook(job, group, members, lag, overdue, committed, max(times, default=None))


RIGHT: Final = "grant DESCRIBE on groups with the prefix eo- to who asks"


class _Ends:
    """Where each partition begins and ends, and where it ended STALL_S ago."""

    def __init__(self, admin: AdminClient, places: Mapping[str, Sequence[int]], now_ns: int) -> None:
        from confluent_kafka.admin import OffsetSpec

        every = [(topic, part) for topic, parts in places.items() for part in parts]
        old_ms = now_ns // 1_000_000 - int(STALL_S * 1000)
        self._end = _offsets(admin, every, OffsetSpec.latest())
        self._low = _offsets(admin, every, OffsetSpec.earliest())
        self._fresh = _offsets(admin, every, OffsetSpec.for_timestamp(old_ms))

    def behind(self, place: Place, committed: int | None) -> tuple[int, int]:
        """Records that wait, and those of them that are older than STALL_S."""
        end, fresh = self._end.get(place, 0), self._fresh.get(place, -1)
        at = max(committed if committed is not None else 0, self._low.get(place, 0))
        slack = MARKER if place[0] == DESIRED.name else 0
        waiting = end - at if end - at > slack else 0
        if fresh < 0:  # nothing newer: what waits is old, or, on a transactional topic, perhaps markers only
            return waiting, 0 if slack else waiting
        return waiting, fresh - at if fresh - at > slack else 0


def _offsets(admin: AdminClient, places: Sequence[Place], spec: object) -> dict[Place, int]:
    from confluent_kafka import IsolationLevel, TopicPartition

    if not places:
        return {}
    asked = admin.list_offsets(
        {TopicPartition(*place): spec for place in places},
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=ASK_S,
    )
    return {(str(tp.topic), int(tp.partition)): int(future.result(ASK_S + 1).offset) for tp, future in asked.items()}


def _note(commit: Any) -> str | None:
    """A commit's note; None for one that the client cannot decode, which is none of ours."""
    try:
        note: str | None = commit.metadata
    except UnicodeDecodeError:
        return None
    return note


def _words(error: BaseException) -> str:
    first = error.args[0] if error.args else type(error).__name__
    return first.str() if hasattr(first, "str") else str(first)
