"""`up`, `down`, `status` and `resolve_bootstrap`: which broker this data folder uses, in the order of the design.

An existing cluster by KAFKA_BOOTSTRAP; else Apache Kafka from Maven jars; else a container; else the mesh wheel.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from agents.cli.base import EoError
from agents.cli.brokers import container, kafka_jars, mesh, processes, ready
from agents.cli.brokers.info import LABELS, BrokerInfo, Kind
from agents.cli.brokers.unavailable import Unavailable
from streams.contract.layout import Layout

ORDER: Final[tuple[Kind, ...]] = ("kafka-jars", "container", "mesh")
TRIES: Final = 3  # another program may take a free port between choosing and using it


def _file(layout: Layout) -> Path:
    return layout.broker / "broker.json"


def external(env: Mapping[str, str] = os.environ) -> BrokerInfo | None:
    """The user's own cluster, when KAFKA_BOOTSTRAP names one; its form is checked, not whether it answers."""
    bootstrap = (env.get("KAFKA_BOOTSTRAP") or env.get("EO_BOOTSTRAP") or "").strip()
    if not bootstrap:
        return None
    ready.addresses(bootstrap)
    return BrokerInfo(bootstrap, "external", LABELS["external"], None, "", 0)


def status(layout: Layout, *, env: Mapping[str, str] = os.environ) -> BrokerInfo | None:
    """The broker of this data folder when it runs (or the external one); None otherwise, also for a stale pid."""
    return external(env) or own(layout)


def own(layout: Layout) -> BrokerInfo | None:
    """The broker that `eo broker up` started here, when that very process or container still runs."""
    info = BrokerInfo.load(_file(layout))
    return info if info is not None and _runs(info) else None


def _runs(info: BrokerInfo) -> bool:
    if info.container is not None:
        return container.running(*info.container.split(" ", 1))
    return processes.alive(info.pid, info.start_mark)


def resolve_bootstrap(layout: Layout, env: Mapping[str, str] = os.environ) -> str:
    """KAFKA_BOOTSTRAP, else our own running broker; raises EoError with the next step when there is none."""
    found = status(layout, env=env)
    if found is None:
        raise EoError(
            f"no broker: KAFKA_BOOTSTRAP is not set and none runs from {layout.broker}; run `eo broker up`, "
            "or set KAFKA_BOOTSTRAP=host:port."
        )
    return found.bootstrap


def up(
    layout: Layout, *, kind: Kind | None = None, timeout_s: float = 60.0, env: Mapping[str, str] = os.environ
) -> BrokerInfo:
    """Finds or starts the broker and returns when it works: its coordinators answer, not only its port.

    Raises EoError with what is missing and what to do; what was started for nothing is ended again.
    """
    if kind in (None, "external") and (found := external(env)) is not None:
        ready.check_listeners(found.bootstrap)
        return found
    if kind == "external":
        raise EoError("--kind external uses your own cluster: set KAFKA_BOOTSTRAP=host:port first.")
    with _lock(layout):
        if (running := own(layout)) is not None:
            return _second_up(running, kind, timeout_s)
        return _start(layout, (kind,) if kind else ORDER, timeout_s, env)


def _second_up(running: BrokerInfo, kind: Kind | None, timeout_s: float) -> BrokerInfo:
    if kind not in (None, running.kind):
        raise EoError(
            f"a broker of kind {running.kind} runs already at {running.bootstrap}; `eo broker down` ends it, "
            f"then `eo broker up --kind {kind}`."
        )
    ready.wait_ready(running.bootstrap, timeout_s, transactions=running.kind != "mesh")
    return running


def _start(layout: Layout, kinds: tuple[Kind, ...], timeout_s: float, env: Mapping[str, str]) -> BrokerInfo:
    missing = []
    for kind in kinds:
        try:
            return STARTERS[kind](layout, timeout_s, env)
        except Unavailable as reason:
            missing.append(f"{kind}: {reason}")
    raise EoError(
        f"no broker can be started here ({'; '.join(missing)}); do one of these, or set KAFKA_BOOTSTRAP=host:port."
    )


def _start_jars(layout: Layout, timeout_s: float, env: Mapping[str, str]) -> BrokerInfo:
    node = kafka_jars.Node(layout.broker, kafka_jars.java(env), kafka_jars.jars(env))
    node.format()
    for attempt in range(1, TRIES + 1):
        port, controller_port = node.ports()
        pid = node.start(port, controller_port)
        try:
            return _settle(layout, "kafka-jars", port, timeout_s, pid=pid, ending=node.ending)
        except EoError as error:
            if str(error) != kafka_jars.PORT_TAKEN or attempt == TRIES:
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _start_container(layout: Layout, timeout_s: float, env: Mapping[str, str]) -> BrokerInfo:
    path = container.engine(env)
    port = processes.free_port()
    name = container.start(path, layout.broker, port, env)
    return _settle(
        layout, "container", port, timeout_s, name=f"{path} {name}", ending=lambda: f"container {name} ended"
    )


def _start_mesh(layout: Layout, timeout_s: float, env: Mapping[str, str]) -> BrokerInfo:
    binary, port, log = mesh.program(), processes.free_port(), layout.broker / "mesh.log"
    pid = mesh.start(binary, port, log)
    return _settle(layout, "mesh", port, timeout_s, pid=pid, ending=lambda: f"the mesh broker ended; its log is {log}.")


STARTERS: Final[dict[Kind, Callable[[Layout, float, Mapping[str, str]], BrokerInfo]]] = {
    "kafka-jars": _start_jars,
    "container": _start_container,
    "mesh": _start_mesh,
}


def _settle(
    layout: Layout,
    kind: Kind,
    port: int,
    timeout_s: float,
    *,
    ending: Callable[[], str],
    pid: int | None = None,
    name: str | None = None,
) -> BrokerInfo:
    """Writes broker.json, waits until the broker works, and takes it all back when it does not."""
    mark = processes.start_mark(pid) if pid is not None else None
    data = str(layout.broker)
    info = BrokerInfo(f"127.0.0.1:{port}", kind, LABELS[kind], pid, data, time.time_ns(), mark, name)
    info.save(_file(layout))
    try:
        died = lambda: None if _runs(info) else ending()  # noqa: E731
        ready.wait_ready(info.bootstrap, timeout_s, transactions=kind != "mesh", died=died)
    except BaseException:
        _end(info)
        _file(layout).unlink(missing_ok=True)
        raise
    return info


def down(layout: Layout) -> bool:
    """Ends our own broker by its pid and keeps its store; False when none ran. An external cluster is never touched."""
    with _lock(layout):
        info = own(layout)
        if info is not None and not _end(info):
            raise EoError(f"the broker (pid {info.pid}) did not end after SIGTERM and SIGKILL; look at it with `ps`.")
        _file(layout).unlink(missing_ok=True)
        return info is not None


def _end(info: BrokerInfo) -> bool:
    if info.container is not None:
        return container.stop(*info.container.split(" ", 1))
    if info.pid is None or info.start_mark is None:
        return True
    return processes.end(info.pid, info.start_mark)


@contextmanager
def _lock(layout: Layout) -> Iterator[None]:
    """One `up` or `down` at a time per data folder; the second waits and then finds the first's broker."""
    try:
        layout.broker.mkdir(parents=True, exist_ok=True)
        handle = (layout.broker / "lock").open("w")
    except OSError as error:
        raise EoError(
            f"the data folder {layout.broker} cannot be written ({error.strerror}); give this user the right, or set "
            "EO_DATA_DIR to another folder."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
