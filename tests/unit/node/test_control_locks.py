"""No lock outlives the wish for it: the loop on the real capper, when it has reason to forget what is in force."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from agents.capper.server import CapperServer
from agents.node.capper_client import SocketCapper
from agents.node.control_loop import ControlLoop
from agents.node.engine_drive import Situation
from agents.node.errors import CapperUnavailable
from models.control.types import ClockBounds, Decision, EngineState, Observed, Targets
from streams.contract.records import EngineControl, EngineReading, NodeTelemetry, PowerApplied
from tests.fakes.capper_rig import Rig, columns
from tests.fakes.controllers import Unlearning

ENGINE_GPU, OTHER_GPU = "GPU-a", "GPU-b"


class Flaky:
    """The rig's capper as a port; while `gone` no call is answered. Counts what is sent."""

    def __init__(self, rig: Rig) -> None:
        self.rig, self.gone, self.sent, self.limited = rig, False, 0, 0

    def grant(self, raw: bytes, *, received_ns: int) -> PowerApplied:
        return self.rig.capper.grant(raw, received_ns=received_ns)

    def set_clocks(self, wanted: Mapping[str, int | None]) -> dict[str, int | None]:
        self.sent += 1
        return self.rig.capper.set_clocks(wanted)

    def set_limits(self, wanted: Mapping[str, float | None]) -> dict[str, float | None]:
        self.limited += 1
        return self.rig.capper.set_limits(wanted)

    def events(self) -> list[PowerApplied]:
        if self.gone:
            raise CapperUnavailable("capper at test does not answer (gone)")
        return self.rig.capper.events()

    def status(self) -> dict[str, object]:
        return self.rig.capper.status()


class Bench(Unlearning):
    """One engine on the first GPU, renewals every 5 s, a controller that wants `mhz`."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self.port = Flaky(self.rig)
        self.mhz: int | None = 1500
        self.seq = 0
        self.loop = self.new_loop()

    def new_loop(self) -> ControlLoop:
        return ControlLoop("n1", self.port, lambda *_: self, cluster="c1", monotonic=lambda: self.rig.now_s)

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
        return Decision(self.mhz, "scripted")

    def renew(self, *uuids: str) -> None:
        self.seq += 1
        self.loop.on_command(self.rig.raw(self.seq, columns(uuids)), self.rig.wall_ns)

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self.rig.run(0.5)
            self.loop.step(self.rig.now_s, self._telemetry())

    def _telemetry(self) -> NodeTelemetry:
        now_ns = self.rig.wall_ns
        engine = EngineReading(
            engine="e1", kind="twin", stack="s", workload="w", gpu_uuid=(ENGINE_GPU,), ts_ns=now_ns, running=1
        )
        return NodeTelemetry(
            cluster="c1",
            node="n1",
            boot_id="b",
            seq=1,
            ts_ns=now_ns,
            source=("t",),
            quality="simulated",
            engines=(engine,),
        )

    @property
    def lock(self) -> float | None:
        assert self.rig.clock is not None
        return self.rig.clock.values[ENGINE_GPU]


class Limits:
    """What the drive of a training job would want, on one GPU."""

    drift = None

    def __init__(self, watts: float | None) -> None:
        self.watts = watts

    def decide(self, now_s: float, now: Situation) -> Decision:
        return Decision(None, "scripted", limit_w=self.watts)

    def report(self) -> EngineControl:
        return EngineControl(state="searching")


def with_limit(bench: Bench, watts: float | None) -> None:
    bench.loop._drives["e1"] = ("s", Limits(watts))


def limits(bench: Bench) -> dict[str, float | None]:
    assert bench.rig.power is not None
    return dict(bench.rig.power.values)


def test_a_limit_is_sent_once_and_nothing_is_sent_of_gpus_that_do_not_train(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with_limit(bench, 400.0)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(4)
    assert limits(bench) == {ENGINE_GPU: 400.0, OTHER_GPU: 500.0}
    calls = bench.port.limited
    bench.rounds(4)
    assert bench.port.limited == calls
    with_limit(bench, None)
    bench.rounds(1)
    assert limits(bench) == {ENGINE_GPU: 500.0, OTHER_GPU: 500.0} and bench.port.limited == calls + 1


def test_a_new_agent_gives_back_the_limit_that_the_one_before_had_chosen(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with_limit(bench, 400.0)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(2)
    assert limits(bench)[ENGINE_GPU] == 400.0
    bench.loop = bench.new_loop()
    bench.renew(ENGINE_GPU, OTHER_GPU)
    assert limits(bench)[ENGINE_GPU] == 400.0  # the capper keeps what the node chose, until the node says otherwise
    bench.rounds(1)
    assert limits(bench)[ENGINE_GPU] == 500.0


def test_a_capper_that_was_away_is_told_the_limit_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with_limit(bench, 400.0)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(2)
    bench.port.gone = True
    bench.rounds(1)
    bench.port.gone = False
    assert bench.loop.limits == {}
    with_limit(bench, None)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(1)
    assert limits(bench)[ENGINE_GPU] == 500.0


def test_a_cap_without_a_clock_range_is_nothing_to_choose_in(tmp_path: Path) -> None:
    """A freeze leaves a human's cap and takes the clocks: what this program chose is gone."""
    bench = Bench(tmp_path)
    with_limit(bench, 400.0)
    bench.seq += 1
    bench.loop.on_command(bench.rig.raw(bench.seq, columns((ENGINE_GPU,), low=None, high=None)), bench.rig.wall_ns)
    bench.rounds(3)
    assert limits(bench)[ENGINE_GPU] == 500.0 and bench.port.limited == 0


def leaves_out_another_gpu(bench: Bench) -> None:
    bench.renew(ENGINE_GPU)


def one_round_without_an_answer(bench: Bench) -> None:
    bench.port.gone = True
    bench.rounds(1)
    bench.port.gone = False
    bench.renew(ENGINE_GPU, OTHER_GPU)


def agent_starts_again(bench: Bench) -> None:
    bench.loop = bench.new_loop()
    bench.renew(ENGINE_GPU, OTHER_GPU)


@pytest.mark.parametrize("trigger", [leaves_out_another_gpu, one_round_without_an_answer, agent_starts_again])
def test_a_lock_that_nobody_wants_any_more_is_released_in_the_next_round(
    tmp_path: Path, trigger: Callable[[Bench], None]
) -> None:
    bench = Bench(tmp_path)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(2)
    assert bench.lock == 1500
    bench.mhz = None
    trigger(bench)
    bench.rounds(1)
    assert bench.lock is None
    for _ in range(6):
        bench.renew(ENGINE_GPU)
        bench.rounds(10)
        assert bench.lock is None
    assert bench.loop.locks[ENGINE_GPU] is None


def test_a_capper_that_was_silent_is_released_without_a_new_grant(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.renew(ENGINE_GPU, OTHER_GPU)
    bench.rounds(1)
    bench.port.gone = True
    bench.rounds(1)
    bench.port.gone = False
    bench.rounds(1)
    assert bench.lock is None


def test_each_grant_costs_one_message_not_one_per_round(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for _ in range(3):
        bench.renew(ENGINE_GPU, OTHER_GPU)
        bench.rounds(10)
    assert bench.lock == 1500
    assert bench.port.sent == 3


class SlowCapper:
    """A served capper whose device holds up the first set until the test lets it go."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        assert self.rig.power is not None
        self.setting, self.go, self.stopped = threading.Event(), threading.Event(), threading.Event()
        self._set = self.rig.power.set
        self.rig.power.set = self._slowly  # type: ignore[method-assign]
        self.server = CapperServer(self.rig.capper, folder / "capper.sock")
        self.server.open()
        self.thread = threading.Thread(target=self.server.run, args=(self.stopped.is_set,), daemon=True)
        self.thread.start()

    def _slowly(self, uuid: str, value: float | None) -> None:
        self.setting.set()
        assert self.go.wait(30)
        self._set(uuid, value)

    def close(self) -> None:
        self.go.set()
        self.stopped.set()
        self.thread.join(10)
        self.server.close()


class LetsGo(SocketCapper):
    """Lets the device go on once the first request has run into its time limit."""

    slow: SlowCapper

    def close(self) -> None:
        super().close()
        self._timeout_s = 20.0
        self.slow.go.set()


def test_a_grant_answered_too_late_is_asked_for_again_and_not_set_twice(tmp_path: Path) -> None:
    slow = SlowCapper(tmp_path)
    client = LetsGo(tmp_path / "capper.sock", timeout_s=0.3)
    client.slow = slow
    loop = ControlLoop("n1", client, cluster="c1")
    try:
        ack = loop.on_command(slow.rig.raw(1, columns(watts=500.0)), slow.rig.wall_ns)
        assert slow.setting.is_set()
        assert ack.gpu.status == ("applied", "applied")
        assert ack.gpu.effective_limit_w == (500.0, 500.0)
        assert slow.rig.power is not None
        assert slow.rig.power.set_calls == 2
        assert slow.rig.capper.status()["counts"] == {"duplicate": 1, "applied": 2}
        assert loop.live is not None
    finally:
        slow.close()
        client.close()


def test_a_grant_never_answered_is_refused_as_unknown(tmp_path: Path) -> None:
    slow = SlowCapper(tmp_path)
    client = SocketCapper(tmp_path / "capper.sock", timeout_s=0.2)
    loop = ControlLoop("n1", client, cluster="c1")
    try:
        ack = loop.on_command(slow.rig.raw(1, columns(watts=500.0)), slow.rig.wall_ns)
        assert set(ack.gpu.status) == {"refused"}
        assert ack.gpu.reason[0].startswith(
            "the capper did not answer; what it did is unknown until its next event (capper at "
        )
        assert loop.live is None
    finally:
        slow.close()
        client.close()
    assert slow.rig.power is not None
    deadline = time.monotonic() + 10
    while slow.rig.power.values[ENGINE_GPU] != 500.0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert slow.rig.power.values[ENGINE_GPU] == 500.0
