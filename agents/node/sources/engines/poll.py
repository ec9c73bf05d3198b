"""All engines of a node, asked in the background: a hanging one delays neither another, nor sampling, nor control.

No engine gives word of a request that arrives, so arrivals are found by asking: ten times a second where an answer is
cheap (a small text on this machine), else twice, and the log says which.

One thread per engine, bounded by the settings; each answer has a deadline below the interval. `read` only takes what is
there. An answer keeps the time at which it was given: the control loop releases the GPUs of an engine whose numbers are
older than two seconds, and an engine that has been silent for ten leaves the record.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from agents.node.engine_settings import EngineSettings
from agents.node.errors import SettingsError, SourceError
from agents.node.sources.base import Probe, Reading
from agents.node.sources.engines.source import CAPABILITY, EngineSource, Snapshot
from streams.contract.records import EngineReading
from streams.contract.training import TRAINING, workload_of

log = logging.getLogger(__name__)
INTERVAL_S: Final = 0.5  # half a sample interval: an answer is fresh enough until the sample after next
FORGET_S: Final = 10.0
FIRST_S: Final = 1.0  # how long the first reading of all may wait, so that the first record has the engines
JOIN_S: Final = 1.0
FAST_S: Final = 0.1
CHEAP_CPU_S: Final = 0.0005  # of this process for one answer: ten a second are then half a percent of a core
CHEAP_WALL_S: Final = 0.01  # from question to answer: what the engine itself may spend on it is in there
STILL_CHEAP: Final = 3.0  # times these before it counts as dear again
SETTLED: Final = 8  # answers before that is judged
Make = Callable[..., EngineSource]
Joined = Callable[[frozenset[str]], None]


def make(engine: EngineSettings, deadline_s: float | None = None) -> EngineSource:
    """The source of one engine as its settings say; `deadline_s` is for a single look, where a person waits."""
    from agents.node.sources import registry

    options: dict[str, object] = {
        **({"file": engine.url.removeprefix("file://")} if engine.url.startswith("file:") else {"url": engine.url}),
        "name": engine.name,
        "stack": engine.stack,
        "workload": _workload(engine),
        "gpus": engine.gpus,
    }
    if deadline_s is not None:
        options["deadline_s"] = deadline_s
    source = registry.make(engine.kind, options)
    if not isinstance(source, EngineSource):
        raise SettingsError(f"{engine.kind!r} is no engine; see `eo read list`")
    return source


def _workload(engine: EngineSettings) -> str:
    """A rank says its job, a job that says nothing that it trains: what compares serving engines leaves both out."""
    if engine.group:
        return workload_of(engine.group)
    return engine.workload or (TRAINING if engine.kind == TRAINING else "")


class Pace:
    """How often an engine is asked: by what its answers have cost."""

    def __init__(self, label: str, interval_s: float) -> None:
        self._label, self.slow_s = label, interval_s
        self._cpu_s = self._wall_s = 0.0
        self._answers = 0
        self.fast = False

    @property
    def interval_s(self) -> float:
        return min(FAST_S, self.slow_s) if self.fast else self.slow_s

    def note(self, cpu_s: float, wall_s: float) -> None:
        """One answer's cost; exponential means of eight, judged from the eighth on."""
        share = 1.0 / SETTLED if self._answers else 1.0
        self._cpu_s += share * (cpu_s - self._cpu_s)
        self._wall_s += share * (wall_s - self._wall_s)
        self._answers += 1
        if self._answers < SETTLED:
            return
        room = STILL_CHEAP if self.fast else 1.0
        fast = self._cpu_s <= room * CHEAP_CPU_S and self._wall_s <= room * CHEAP_WALL_S
        if fast != self.fast or self._answers == SETTLED:
            self.fast = fast
            cost = f"an answer costs {self._cpu_s * 1e3:.2f} ms of CPU here and takes {self._wall_s * 1e3:.1f} ms"
            log.info("engine %s: %s, so it is asked every %g s", self._label, cost, self.interval_s)


class Poller:
    """Asks one engine again and again on a thread of its own; keeps its newest answer and why the last one failed."""

    def __init__(self, source: EngineSource, label: str, *, interval_s: float, wall_ns: Callable[[], int]) -> None:
        self.source, self.label = source, label
        self.pace, self._wall_ns = Pace(label, interval_s), wall_ns
        self.joined: Joined | None = None  # told when requests have joined; None = nobody wants to know
        self._load: float | None = None
        self.newest: Snapshot | None = None
        self._handed: tuple[Snapshot, tuple[EngineReading, ...]] | None = None
        self.problem: str | None = "it has not answered yet"
        self._ending, self.asked = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"engine {label}", daemon=True)

    def start(self) -> None:
        """Begins to ask; once."""
        if self._thread.ident is None and not self._ending.is_set():
            self._thread.start()

    def ask(self) -> None:
        """One question; an answer or a problem, never an exception."""
        try:
            asked_ns = self._wall_ns()
            cpu_s, wall_s = time.thread_time(), time.monotonic()
            snapshot = self.source.snapshot(asked_ns)
            self.pace.note(time.thread_time() - cpu_s, time.monotonic() - wall_s)
        except SourceError as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - a thread that dies would leave the engine silent without a word
            self._failed(f"{type(error).__name__}: {error}")
        else:
            if self.problem is not None and self.newest is not None:
                log.warning("engine %s answers again", self.label)
            self.newest, self.problem = snapshot, None
            self._tell(snapshot)
        self.asked.set()

    def _tell(self, snapshot: Snapshot) -> None:
        """Requests in the engine and finished ones together only rise when one has come."""
        numbers = [values.number for values in snapshot.values]
        load = sum(one.get(name) or 0.0 for one in numbers for name in ("running", "waiting", "requests_total"))
        before, self._load = self._load, load
        if before is not None and load > before and self.pace.fast and self.joined is not None and self._handed:
            self.joined(frozenset(engine.engine for engine in self._handed[1]))

    def engines(self, now_ns: int, on_node: Callable[[EngineReading], EngineReading]) -> tuple[EngineReading, ...]:
        """The newest answer for the control loop; again the same objects while there is no newer one."""
        snapshot = self.newest
        if snapshot is None or now_ns - snapshot.ts_ns > FORGET_S * 1e9:
            return ()
        if self._handed is None or self._handed[0] is not snapshot:
            found = self.source.reading(snapshot, now_ns, reader="control").engines
            self._handed = (snapshot, tuple(map(on_node, found)))
        return self._handed[1]

    def answers_for(self, engines: frozenset[str]) -> bool:
        """Whether any of these came from here last."""
        return self._handed is not None and any(engine.engine in engines for engine in self._handed[1])

    def _failed(self, problem: str) -> None:
        if self.problem is None:
            log.error("engine %s: %s", self.label, problem)
        self.problem = problem

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ending.is_set():
            self.ask()
            due = max(due + (self.pace.interval_s if self.joined else self.pace.slow_s), time.monotonic())
            self._ending.wait(due - time.monotonic())

    def end(self) -> None:
        """Asks the thread to end; it does after the question that it is in."""
        self._ending.set()

    def join(self, timeout_s: float) -> None:
        """Waits for the thread, but not for ever: a name server that hangs must not keep the agent from ending."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()


class EnginesSource:
    """All engines of a node.

    Args:
        engines: what the settings name.
        node: put in front of derived names, which must be unique in the cluster.
        interval_s: between two questions to one engine.
        make: builds the source of one engine.
        wall_ns: when an answer was given.
        first_s: how long the first reading may wait for the first answers; later ones never do.
        background: False = the caller asks, through `ask`; for tests.
        at_once: ask in the caller's time, for a single look.
        deadline_s: for each engine's answer in place of its own bound; for a single look.
    """

    name = "engines"

    def __init__(
        self,
        engines: Sequence[EngineSettings] = (),
        *,
        node: str = "",
        interval_s: float = INTERVAL_S,
        make: Make = make,
        wall_ns: Callable[[], int] = time.time_ns,
        first_s: float = FIRST_S,
        background: bool = True,
        at_once: bool = False,
        deadline_s: float | None = None,
    ) -> None:
        if deadline_s is not None:
            make = functools.partial(make, deadline_s=deadline_s)
        self._first_s, self._read = first_s, False
        self._node, self._background, self._at_once = node, background and not at_once, at_once
        self.pollers = tuple(
            Poller(make(engine), engine.name or engine.url, interval_s=interval_s, wall_ns=wall_ns)
            for engine in engines
        )
        self._named = tuple(bool(engine.name) for engine in engines)

    def probe(self) -> Probe:
        """Present as soon as engines are named: one that is down now may come up later. Begins to ask."""
        if not self.pollers:
            return Probe(False, "no engine is named; do it as [[node.engine]] in the agent's file or in EO_NODE_ENGINE")
        self._start()
        return Probe(True, None, CAPABILITY)

    def read(self, now_ns: int) -> Reading:
        """What the engines said last, with its age. Never fails; only the first one waits."""
        self._start()
        if self._at_once:
            for poller in self.pollers:
                poller.ask()
        elif self._background and not self._read:
            self._await_first()
        self._read = True
        engines, missing = list[EngineReading](), list[tuple[str, str]]()
        for poller, named in zip(self.pollers, self._named, strict=True):
            snapshot, problem = poller.newest, poller.problem
            if problem is not None:
                missing.append((f"engines[{poller.label}]", problem))
            if snapshot is None or now_ns - snapshot.ts_ns > FORGET_S * 1e9:
                continue
            reading = poller.source.reading(snapshot, now_ns)
            engines += reading.engines if named else [_on_node(engine, self._node) for engine in reading.engines]
            missing += reading.missing
        return Reading(
            source=self.name,
            ts_ns=now_ns,
            quality="measured",
            capability=CAPABILITY,
            engines=tuple({engine.engine: engine for engine in engines}.values()),
            missing=tuple(missing),
        )

    def on_joined(self, joined: Joined) -> None:
        """Whom to tell, from the pollers' threads, when requests have joined engines that can be asked often."""
        for poller in self.pollers:
            poller.joined = joined

    def engines_now(self, now_ns: int, only: frozenset[str] | None = None) -> tuple[EngineReading, ...]:
        """See base.EngineFeed."""
        found: dict[str, EngineReading] = {}
        for poller, named in zip(self.pollers, self._named, strict=True):
            if only is not None and not poller.answers_for(only):
                continue
            for engine in poller.engines(now_ns, (lambda e: e) if named else lambda e: _on_node(e, self._node)):
                found[engine.engine] = engine
        return tuple(found.values())

    def close(self) -> None:
        """Ends the threads; waits for all of them together, at most two seconds."""
        for poller in self.pollers:
            poller.end()
        until = time.monotonic() + 2 * JOIN_S
        for poller in self.pollers:
            poller.join(max(0.0, until - time.monotonic()))
            poller.source.close()

    def _await_first(self) -> None:
        until = time.monotonic() + self._first_s
        for poller in self.pollers:
            poller.asked.wait(max(0.0, until - time.monotonic()))

    def _start(self) -> None:
        if self._background:
            for poller in self.pollers:
                poller.start()


def _on_node(engine: EngineReading, node: str) -> EngineReading:
    import msgspec

    return msgspec.structs.replace(engine, engine=f"{node}/{engine.engine}") if node else engine
