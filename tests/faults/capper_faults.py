"""Seeded faults against the capper, in one process on a virtual clock: does every value come back in time?

Each fault hits a node that holds limits and locks; then the controller is silent. TTL + 1 s later every knob must say
what it said before us, or what somebody else made it say. Also a program: `python -m tests.faults.capper_faults`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from agents.capper import durable
from streams.contract import failpoints
from streams.contract.codec import encode
from tests.fakes.capper_rig import GPUS, SIGNER, STRANGER, Rig, columns, command

STEP_S = 0.25
FAULTS_PER_RIG = 25
Values = dict[tuple[str, str], float | None]


@dataclass
class Report:
    """What happened, in counts that anybody can make again from the seed."""

    seed: int
    faults: int = 0
    restored: int = 0  # faults after which every knob was right within TTL + 1 s
    leaked: int = 0  # knobs that were not
    forged_or_stale_obeyed: int = 0
    fsyncs: int = 0
    by_fault: dict[str, int] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)


class Node:
    """A rig, what its devices must say in the end, and the sequence numbers of its controller."""

    def __init__(self, folder: Path, random_: random.Random) -> None:
        self.rig, self.random, self.seq = Rig(folder), random_, 0
        self.expected: Values = {}
        self.obeyed_wrongly = 0

    def begin(self) -> float:
        """Somebody has set values of their own; then a lease of ours. Returns its TTL, seconds."""
        rig, pick = self.rig, self.random
        rig.capper.restore_all("a new round")
        assert rig.power is not None and rig.clock is not None
        for uuid in GPUS:
            rig.power.values[uuid] = float(pick.choice((700, 700, 650, 480)))
            rig.clock.values[uuid] = pick.choice((None, None, 1410.0))
        self.expected = self.values()
        ttl_s = pick.choice((1.0, 2.0, 3.0))
        self.grant(ttl_s)
        rig.capper.set_clocks({uuid: pick.choice((None, 900, 1200)) for uuid in GPUS})
        return ttl_s

    def grant(self, ttl_s: float) -> None:
        self.seq += 1
        watts = [self.random.choice((None, 300.0, 450.0)) for _ in GPUS]
        self.rig.grant(self.seq, columns(watts=watts, high=1400), ttl_ms=round(ttl_s * 1000))

    def values(self) -> Values:
        """What every knob says, faults aside."""
        rig = self.rig
        assert rig.power is not None and rig.clock is not None
        powers = {(uuid, "power"): value for uuid, value in rig.power.values.items()}
        return {**powers, **{(uuid, "clock"): value for uuid, value in rig.clock.values.items()}}

    def run(self, seconds: float) -> None:
        self.rig.run(seconds, STEP_S)

    def crash_and_restart(self, after_s: float) -> None:
        self.rig.crash()
        self.rig.advance(after_s)
        self.rig.restart()


Fault = Callable[[Node, float], None]


def silence(node: Node, ttl_s: float) -> None:
    """The controller, Kafka or the agent is gone."""


def killed(node: Node, ttl_s: float) -> None:
    """kill -9 between two calls; the supervisor starts it again."""
    node.run(node.random.choice((0, 1)) * STEP_S)
    node.crash_and_restart(0.5)


def killed_at(name: str) -> Fault:
    """kill -9 in the middle of a command, at a failpoint."""

    def fault(node: Node, ttl_s: float) -> None:
        failpoints.arm(f"{name}:raise")
        try:
            node.grant(ttl_s)
            node.run(ttl_s)  # the restore's failpoint is reached when the lease ends
        except failpoints.FailpointRaised:
            node.crash_and_restart(0.5)
        finally:
            failpoints.arm("")

    return fault


def stopped(node: Node, ttl_s: float) -> None:
    """SIGTERM, then a new process."""
    node.rig.capper.close()
    node.rig.restart()


def stalled(node: Node, ttl_s: float) -> None:
    """The process was not scheduled until just after its leases ended."""
    node.rig.advance(ttl_s + 0.5)


def wall_jump(node: Node, ttl_s: float) -> None:
    """The wall clock jumps; the monotonic one does not."""
    node.rig.wall_ns += node.random.choice((3600, -600)) * 10**9


def device_lost(node: Node, ttl_s: float) -> None:
    """A GPU falls off the bus and is back before its lease ends."""
    actuator = node.random.choice((node.rig.power, node.rig.clock))
    assert actuator is not None
    actuator.lost(GPUS[0])
    node.run(ttl_s / 2)
    actuator.heal()


def device_lost_over_expiry(node: Node, ttl_s: float) -> None:
    """As before, but it is back only as the lease ends: the first restore fails, the next must not."""
    assert node.rig.power is not None
    node.rig.power.lost(GPUS[0])
    node.run(ttl_s)
    node.rig.power.heal()


def right_withdrawn(node: Node, ttl_s: float) -> None:
    """Setting is forbidden for a while."""
    assert node.rig.power is not None
    node.rig.power.forbidden()
    node.grant(ttl_s)
    node.rig.power.heal()


def lying_set(node: Node, ttl_s: float) -> None:
    """The device takes a value and does nothing."""
    actuator = node.random.choice((node.rig.power, node.rig.clock))
    assert actuator is not None
    actuator.lying_set(GPUS[1])
    node.grant(ttl_s)
    node.rig.capper.set_clocks(dict.fromkeys(GPUS, 1005))
    actuator.heal()


def flaky_sets(node: Node, ttl_s: float) -> None:
    """Some sets time out."""
    assert node.rig.power is not None
    node.rig.power.flaky_sets(node.random.randrange(1, 6))
    node.grant(ttl_s)


def foreign_writer(node: Node, ttl_s: float) -> None:
    """Somebody else turns a knob that we may hold: theirs stands."""
    rig, uuid = node.rig, node.random.choice(GPUS)
    assert rig.power is not None and rig.clock is not None
    if node.random.random() < 0.5:
        rig.power.foreign_writer(uuid, 333.0)
        node.expected[uuid, "power"] = 333.0
    else:
        rig.clock.foreign_writer(uuid, 1005.0)
        node.expected[uuid, "clock"] = 1005.0
    node.run(node.random.choice((0, 1)) * STEP_S)
    node.grant(ttl_s)
    rig.capper.set_clocks(dict.fromkeys(GPUS, 1200))


def no_space(node: Node, ttl_s: float) -> None:
    """The save file cannot be written while new knobs are asked for."""
    with mock.patch.object(durable, "replace", side_effect=OSError(28, "No space left on device")):
        node.grant(ttl_s)


def no_mark(node: Node, ttl_s: float) -> None:
    """The mark cannot be made durable."""
    with (
        mock.patch.object(durable, "sync_data", side_effect=OSError(5, "Input/output error")),
        mock.patch("agents.capper.mark.sync_data", side_effect=OSError(5, "Input/output error")),
    ):
        node.grant(ttl_s)


def forged_and_replayed(node: Node, ttl_s: float) -> None:
    """Forged, replayed, misdirected and expired commands keep coming: none moves a device."""
    rig = node.rig
    low, before = columns(watts=200.0), node.values()
    attacks = [
        STRANGER.sign(command(node.seq + 1, low, issued_at_ns=rig.wall_ns)),
        SIGNER.sign(command(node.seq + 1, low, issued_at_ns=rig.wall_ns, node="n2")),
        SIGNER.sign(command(node.seq + 1, low, issued_at_ns=rig.wall_ns - 3600 * 10**9)),
        SIGNER.sign(command(node.seq - 1, low, issued_at_ns=rig.wall_ns, epoch=0)),
    ]
    for attack in attacks:
        rig.send(encode(attack))
    node.obeyed_wrongly += node.values() != before


FAULTS: dict[str, Fault] = {
    **{fault.__name__: fault for fault in (silence, killed, stopped, stalled, wall_jump, device_lost)},
    **{fault.__name__: fault for fault in (device_lost_over_expiry, right_withdrawn, lying_set, flaky_sets)},
    **{fault.__name__: fault for fault in (foreign_writer, no_space, no_mark, forged_and_replayed)},
    **{f"killed_at_{name}": killed_at(name) for name in sorted(failpoints.NAMES) if name.startswith("capper.")},
}


def campaign(faults: int, seed: int) -> Report:
    """So many faults, chosen by the seed; fsyncs are counted and not done, for the disk is not what is tested here."""
    report, random_ = Report(seed), random.Random(seed)
    start = durable.fsync_count()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with mock.patch.object(os, "fsync"), mock.patch.object(os, "fdatasync"):
        while report.faults < faults:
            with tempfile.TemporaryDirectory(dir=memory) as folder:
                node = Node(Path(folder), random_)
                for _ in range(min(FAULTS_PER_RIG, faults - report.faults)):
                    one(node, report)
                report.forged_or_stale_obeyed += node.obeyed_wrongly
                node.rig.capper.close()
    report.fsyncs = durable.fsync_count() - start
    return report


def one(node: Node, report: Report) -> None:
    """One fault, one verdict: TTL + 1 s after the last grant every knob is looked at, from the device's side."""
    name = node.random.choice(tuple(FAULTS))
    ttl_s = node.begin()
    start_s = node.rig.now_s
    FAULTS[name](node, ttl_s)
    # The last grant may have come during the fault; nothing comes after it.
    node.run(max(ttl_s + 1.0, start_s + ttl_s + 1.0 - node.rig.now_s))
    wrong = {knob for knob, value in node.values().items() if value != node.expected[knob]}
    report.faults += 1
    report.by_fault[name] = report.by_fault.get(name, 0) + 1
    report.restored += not wrong
    report.leaked += len(wrong)
    report.leaks += [f"fault {report.faults} {name}: {uuid} {knob}" for uuid, knob in sorted(wrong)]


def main() -> int:
    parser = argparse.ArgumentParser(description="seeded faults against the capper, as counts")
    parser.add_argument("--faults", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    report = campaign(args.faults, args.seed)
    json.dump(asdict(report), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0 if report.restored == report.faults else 1


if __name__ == "__main__":
    raise SystemExit(main())
