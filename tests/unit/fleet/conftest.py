"""A small fleet in virtual time: no Kafka, no threads, no waiting."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from agents.fleet import registers as fleet_registers
from agents.fleet.fleet import GPUS_PER_ENGINE, SLOT_S, Fleet, build
from agents.node.publisher import EventPublisher
from agents.node.spool import Spool
from models.twin.cluster import TwinCluster
from models.twin.params import TwinParams
from models.twin.workload import Workload
from streams.contract import signing
from streams.contract.codec import decode, encode
from streams.contract.layout import Layout
from streams.contract.records import (
    EnvelopeColumns,
    LatencyTarget,
    NodeTelemetry,
    PowerApplied,
    PowerDesired,
)

NODES, GPUS = 3, 8
T0_NS = 1_790_000_000_000_000_000


class NoBroker:
    """A producer that keeps nothing: these tests read the spools."""

    def produce(self, *args: object, **kwargs: object) -> None:
        raise BufferError

    def poll(self, timeout: float = 0) -> int:
        return 0

    def purge(self) -> None:
        return None


@dataclass
class Bench:
    """A fleet with its own clock and the means to command it."""

    layout: Layout
    fleet: Fleet
    spool: Spool
    acks_spool: Spool
    signer: signing.Signer
    clock: dict[str, float]
    twin: TwinCluster
    seq: int = field(default=0)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / SLOT_S)):
            self.clock["s"] += SLOT_S
            self.fleet.step(wall_ns=self.wall_ns(), mono_s=self.clock["s"])

    def wall_ns(self) -> int:
        return T0_NS + int(self.clock["s"] * 1e9)

    def telemetry(self) -> list[NodeTelemetry]:
        return [decode(NodeTelemetry, value) for value in values(self.spool)]

    def acks(self) -> list[PowerApplied]:
        return [decode(PowerApplied, value) for value in values(self.acks_spool)]

    def envelope(self, node: int, **changes: object) -> PowerDesired:
        """A command for a node: both engines granted 1200 to 1980 MHz and 600 W, unless changed."""
        registers = self.fleet.registers
        uuids = registers.node_uuids(node)
        name = registers.nodes[node]
        engines = tuple(f"{name}/r{i // GPUS_PER_ENGINE}" for i in range(len(uuids)))
        self.seq += 1
        gpu = EnvelopeColumns(
            uuid=uuids,
            min_sm_mhz=(1200,) * len(uuids),
            max_sm_mhz=(1980,) * len(uuids),
            max_power_w=(600.0,) * len(uuids),
            engine=engines,
            holdout=(False,) * len(uuids),
            reason=("test",) * len(uuids),
        )
        fields: dict[str, object] = {
            "cluster": registers.cluster,
            "node": name,
            "epoch": 1,
            "seq": self.seq,
            "issued_at_ns": self.wall_ns(),
            "sample_ts_ns": self.wall_ns(),
            "ttl_ms": 5000,
            "on_expiry": "restore",
            "mode": "on",
            "strategy": "aggressive",
            "policy_version": "test",
            "gpu": gpu,
            "reason": "test",
            "targets": tuple(LatencyTarget(engine=e, tbt_ms=100.0, ttft_ms=2000.0) for e in sorted(set(engines))),
        }
        return self.signer.sign(PowerDesired(**(fields | changes)))  # type: ignore[arg-type]

    def command(self, node: int, envelope: PowerDesired) -> PowerApplied:
        ack = self.fleet.nodes[node].agent.command(encode(envelope), self.wall_ns())
        assert ack is not None
        return ack


def values(spool: Spool) -> list[bytes]:
    """Everything that waits in a spool; one read ends at a segment's end."""
    out: list[bytes] = []
    after = 0
    while records := spool.read(after, 1000):
        out += [record.value for record in records]
        after = records[-1].number
    return out


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


def make_bench(root: Path, workload: Callable[[int], Workload] | None = None) -> Bench:
    """A bench over `root`; calling it again on the same root is a restart of the fleet's process.

    workload: of so many replicas; None = `steady`.
    """
    layout = Layout(root)
    signer = (
        signing.Signer.load(layout.actuation_key)
        if layout.actuation_key.exists()
        else signing.generate("k1", layout.actuation_key)
    )
    layout.keyring.write_text(signer.public_line() + "\n")
    registers = fleet_registers.create(layout.fleet, cluster="test", nodes=NODES, gpus_per_node=GPUS)
    replicas = NODES * GPUS // GPUS_PER_ENGINE
    twin = TwinCluster(
        replicas=replicas,
        gpus_per_replica=GPUS_PER_ENGINE,
        workload=(workload or steady)(replicas),
        params=TwinParams(),
        seed=3,
    )
    clock = {"s": 100.0}
    spool, acks_spool = Spool(root / "spool"), Spool(root / "acks")
    fleet = build(
        layout=layout,
        registers=registers,
        twin=twin,
        spool=spool,
        events=EventPublisher(acks_spool, NoBroker()),
        keyring=signing.KeyRing.load(layout.keyring),
        monotonic=lambda: clock["s"],
        wall_ns=lambda: T0_NS + int(clock["s"] * 1e9),
    )
    fleet.start()
    return Bench(layout, fleet, spool, acks_spool, signer, clock, twin)


def steady(replicas: int) -> Workload:
    """Each replica gets a request of 800 + 100 tokens every 0.7 s."""
    times = np.arange(0, 70, 0.7)
    count = len(times)
    return Workload(
        arrival_s=np.tile(times, replicas),
        prompt_tokens=np.full(count * replicas, 800),
        output_tokens=np.full(count * replicas, 100),
        replica=np.repeat(np.arange(replicas), count),
        period_s=70.0,
    )
