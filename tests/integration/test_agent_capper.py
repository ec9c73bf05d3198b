"""Control loop and capper over the capper's own socket: grant, clocks, expiry, a capper that dies and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agents.capper.core import Capper
from agents.capper.server import CapperServer
from agents.node.capper_client import SocketCapper
from agents.node.control_loop import ControlLoop
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets
from streams.contract import codec
from streams.contract.records import EngineReading, LatencyTarget, NodeTelemetry
from tests.fakes.actuators import FakeActuator
from tests.fakes.capper_rig import ALLOWED, GPUS, KEYRING, SIGNER, STRANGER, columns, command
from tests.fakes.controllers import Unlearning

pytestmark = pytest.mark.integration


class Lowest(Unlearning):
    """A controller that always wants the lowest clock of its bounds."""

    def step(
        self,
        now_s: float,
        state: EngineState | None,
        *,
        targets: Targets,
        bounds: ClockBounds,
        throttle: int,
        observed: Observed | None,
    ) -> Decision:
        return Decision(bounds.min_mhz, "lowest")


class Rig:
    """A served capper on fake devices, and a loop that talks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.power = FakeActuator("power_limit_w", GPUS)
        self.clock = FakeActuator("sm_lock_mhz", GPUS)
        self.client = SocketCapper(folder / "capper.sock", timeout_s=5)
        self.loop = ControlLoop("n1", self.client, lambda *_: Lowest(), cluster="c1")
        self.start()

    def start(self) -> None:
        capper = Capper(
            node="n1",
            cluster="c1",
            settings=ALLOWED,
            power=self.power,
            clock=self.clock,
            folder=self.folder,
            keyring=KEYRING,
            monotonic=time.monotonic,
            wall_ns=time.time_ns,
        )
        capper.start()
        self.server, self.stopped = CapperServer(capper, self.folder / "capper.sock"), threading.Event()
        self.server.open()
        self.thread = threading.Thread(target=self.server.run, args=(self.stopped.is_set,), daemon=True)
        self.thread.start()
        self.capper = capper

    def stop(self) -> None:
        self.stopped.set()
        self.thread.join(10)
        self.server.close()
        self.capper.close()

    def raw(self, seq: int, *, ttl_ms: int = 30_000, forged: bool = False) -> bytes:
        targets = (LatencyTarget(engine="e1", tbt_ms=50.0, ttft_ms=2000.0),)
        now_ns = time.time_ns()
        record = command(seq, columns(), issued_at_ns=now_ns, sample_ts_ns=now_ns, ttl_ms=ttl_ms, targets=targets)
        return codec.encode((STRANGER if forged else SIGNER).sign(record))

    def step(self) -> None:
        now_ns = time.time_ns()
        engine = EngineReading(
            engine="e1", kind="twin", stack="unknown", workload="chat", gpu_uuid=GPUS, ts_ns=now_ns, running=1
        )
        self.loop.step(
            time.monotonic(),
            NodeTelemetry(
                cluster="c1",
                node="n1",
                boot_id="b",
                seq=1,
                ts_ns=now_ns,
                source=("twin",),
                quality="simulated",
                engines=(engine,),
            ),
        )

    def until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            self.step()
            time.sleep(0.05)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.client.close()
    if made.thread.is_alive():
        made.stop()


def test_a_grant_sets_clocks_through_the_socket(rig: Rig) -> None:
    ack = rig.loop.on_command(rig.raw(1), time.time_ns())
    assert set(ack.gpu.status) == {"applied"}, ack.gpu.reason
    rig.step()
    assert rig.clock.values == dict.fromkeys(GPUS, 900.0)
    assert rig.loop.locks == dict.fromkeys(GPUS, 900)
    rig.loop.release()
    assert rig.clock.values == dict.fromkeys(GPUS, None)


def test_a_forged_command_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.loop.on_command(rig.raw(1), time.time_ns())
    rig.step()
    ack = rig.loop.on_command(rig.raw(2, forged=True), time.time_ns())
    assert set(ack.gpu.status) <= {"refused"}
    rig.step()
    assert rig.clock.values == dict.fromkeys(GPUS, 900.0)


def test_the_end_of_a_lease_restores_and_is_told(rig: Rig) -> None:
    rig.loop.on_command(rig.raw(1, ttl_ms=1000), time.time_ns())
    rig.step()
    rig.loop.acks()
    heard: list[str] = []

    def over() -> bool:
        heard.extend(ack.event for ack in rig.loop.acks())
        return "expiry" in heard

    rig.until(over)
    assert rig.clock.values == dict.fromkeys(GPUS, None)
    assert (rig.loop.live, rig.power.values) == (None, dict.fromkeys(GPUS, 700.0))


def test_a_capper_that_restarts_restores_and_is_found_again(rig: Rig) -> None:
    rig.loop.on_command(rig.raw(1), time.time_ns())
    rig.step()
    rig.stop()
    rig.step()
    assert rig.loop.live is None
    refused = rig.loop.on_command(rig.raw(2), time.time_ns())
    assert set(refused.gpu.status) == {"refused"}
    rig.start()
    assert rig.clock.values == dict.fromkeys(GPUS, None)
    assert set(rig.loop.on_command(rig.raw(3), time.time_ns()).gpu.status) == {"applied"}
    rig.step()
    assert rig.clock.values == dict.fromkeys(GPUS, 900.0)
