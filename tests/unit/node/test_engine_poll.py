"""Engines asked in the background: deadlines, faults, bounded threads, ages, and release by the control loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from agents.node.control_loop import STALE_S, ControlLoop
from agents.node.engine_settings import EngineSettings
from agents.node.errors import SourceError
from agents.node.sources.engines.gpus import with_uuids
from agents.node.sources.engines.poll import FAST_S, SETTLED, EnginesSource, Pace, make
from agents.node.sources.engines.source import EngineSource
from models.control.types import Decision
from streams.contract.records import EngineReading, NodeTelemetry
from tests.fakes.controllers import Unlearning
from tests.fakes.engine_server import EngineServer
from tests.fakes.sources import UUIDS, FakeCapper, desired, gpu_columns

S = 1_000_000_000
TEXT = 'vllm:num_requests_running{model_name="m"} 2\nvllm:generation_tokens_total{model_name="m"} %d\n'


@pytest.fixture
def server() -> Iterator[EngineServer]:
    one = EngineServer(TEXT % 1)
    yield one
    one.close()


def until(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        threading.Event().wait(0.005)


# --- one question ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("hang", "did not answer in full within 0.2 s"),
        ("drip", "did not answer in full within 0.2 s"),
        ("half", "gives no usable answer"),
        ("redirect", "another host: not followed"),
        ("500", "answers 500; is this the path of its metrics?"),
        ("401", "answers 401"),
        ("huge", "more than 4194304 bytes"),
        ("not http", "gives no usable answer"),
    ],
)
def test_each_fault_of_a_server_is_one_sentence(server: EngineServer, fault: str, said: str) -> None:
    server.fault = fault
    source = make(settings(server.url))
    source._deadline_s = 0.2 if fault in {"hang", "drip"} else 10.0
    with pytest.raises(SourceError) as caught:
        source.snapshot(1)
    assert said in str(caught.value)


# --- in the background -----------------------------------------------------------------------------------------------


def settings(url: str, **fields: object) -> EngineSettings:
    return EngineSettings(kind="vllm", url=url, **fields)  # type: ignore[arg-type]


def impatient(engine: EngineSettings) -> EngineSource:
    """With a deadline that a test can wait for."""
    source = make(engine)
    source._deadline_s = 0.1
    return source


def test_a_hanging_engine_delays_neither_reading_nor_another_engine(server: EngineServer) -> None:
    stuck = EngineServer(TEXT % 1)
    stuck.fault = "hang"
    source = EnginesSource(
        [settings(stuck.url, name="stuck"), settings(server.url, name="well")], interval_s=0.02, first_s=0.0
    )
    try:
        source.probe()
        assert stuck.hanging.wait(20)
        until(lambda: server.asked >= 3, "three answers of the engine that is well")
        reading = source.read(time.time_ns())
        assert not stuck.release.is_set()
        assert [engine.engine for engine in reading.engines] == ["well"]
        assert ("engines[stuck]", "it has not answered yet") in reading.missing
    finally:
        stuck.close()
        source.close()
    assert not any(poller.alive for poller in source.pollers)


def test_one_thread_per_engine_and_none_after_close(server: EngineServer) -> None:
    before = threading.active_count()
    source = EnginesSource([settings(server.url, name=f"e{n}") for n in range(4)], interval_s=0.01)
    assert threading.active_count() == before, "no thread before it is needed"
    source.read(1)
    source.read(2)
    assert sum(thread.name.startswith("engine ") for thread in threading.enumerate()) == 4
    until(lambda: server.asked >= 12, "three questions to each")
    source.close()
    assert not any(poller.alive for poller in source.pollers)
    source.close()


def test_an_engine_that_fails_keeps_its_age_and_then_leaves(
    server: EngineServer, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100 * S]
    source = EnginesSource([settings(server.url, name="e")], make=impatient, wall_ns=lambda: now[0], background=False)
    (poller,) = source.pollers
    poller.ask()
    server.fault = "500"
    now[0] = 103 * S
    poller.ask()
    poller.ask()
    (engine,) = source.read(now[0]).engines
    assert engine.ts_ns == 100 * S
    late = source.read(111 * S)
    assert late.engines == ()
    assert "answers 500" in dict(late.missing)["engines[e]"]
    assert [r.getMessage() for r in caplog.records if "answers 500" in r.getMessage()][1:] == [], "told once"
    server.fault, server.text = "", TEXT % 2
    poller.ask()
    assert source.read(now[0]).engines[0].ts_ns == 103 * S


def test_the_same_answer_handed_out_twice_counts_once(server: EngineServer) -> None:
    row = 'vllm:inter_token_latency_seconds_bucket{le="%s",model_name="m"} %d\n'
    source = EnginesSource([settings(server.url, name="e")], wall_ns=lambda: server.asked * S, background=False)
    (poller,) = source.pollers
    counts = []
    for total in (5, 8, None, 8):
        if total is not None:
            server.text = TEXT % total + row % ("0.1", total) + row % ("+Inf", total)
            poller.ask()
        tbt = source.read(4 * S).engines[0].tbt
        counts.append(None if tbt is None else sum(tbt.count))
    assert counts == [None, 3, None, 0]


def test_derived_names_carry_the_node(server: EngineServer) -> None:
    source = EnginesSource([settings(server.url)], node="n7", wall_ns=lambda: S, background=False)
    source.pollers[0].ask()
    (engine,) = source.read(S).engines
    assert engine.engine == f"n7/vllm@127.0.0.1:{server.url.split(':')[2].split('/')[0]}"


def test_a_source_that_raises_anything_does_not_end_the_thread(server: EngineServer) -> None:
    source = EnginesSource([settings(server.url, name="e")], background=False)
    (poller,) = source.pollers
    poller.source._get = lambda *_args, **_kwargs: (_ for _ in ()).throw(RuntimeError("boom"))
    poller.ask()
    assert dict(source.read(S).missing)["engines[e]"] == "RuntimeError: boom"


def test_without_engines_there_is_nothing_to_read() -> None:
    probe = EnginesSource().probe()
    assert (probe.present, probe.reason) == (
        False,
        "no engine is named; do it as [[node.engine]] in the agent's file or in EO_NODE_ENGINE",
    )


def test_the_first_reading_waits_for_the_first_answers(server: EngineServer) -> None:
    source = EnginesSource([settings(server.url, name="e")], first_s=20.0)
    try:
        assert [engine.engine for engine in source.read(time.time_ns()).engines] == ["e"]
    finally:
        source.close()


def test_a_single_look_asks_in_the_callers_time(server: EngineServer) -> None:
    source = EnginesSource([settings(server.url, name="e")], at_once=True)
    assert source.read(time.time_ns()).engines[0].running == 2
    assert not source.pollers[0].alive


# --- GPUs ------------------------------------------------------------------------------------------------------------


def reading(*gpus: str) -> EngineReading:
    return EngineReading(engine="e", kind="vllm", stack="s", workload="w", gpu_uuid=gpus, ts_ns=1)


def test_indices_become_uuids_and_half_an_engine_has_none() -> None:
    columns = gpu_columns()
    named = [with_uuids([reading(*gpus)], columns)[0].gpu_uuid for gpus in (("0", "2"), ("0", "99"), (UUIDS[1],), ())]
    assert named == [(UUIDS[0], UUIDS[2]), (), (UUIDS[1],), ()]
    assert with_uuids([reading("0")], None)[0].gpu_uuid == ()


# --- the control loop ------------------------------------------------------------------------------------------------


class Fixed(Unlearning):
    """A controller that always wants one clock: what is released, the loop released."""

    def __init__(self, mhz: int | None = 1500) -> None:
        self.mhz = mhz

    def step(self, *_args: object, **_kwargs: object) -> Decision:
        return Decision(self.mhz, "fixed")


def test_an_engine_that_falls_silent_is_released_within_two_seconds(server: EngineServer) -> None:
    now = [100.0]
    engines = EnginesSource(
        [settings(server.url, name="n1/r0", gpus=("0", "1"))], wall_ns=lambda: int(now[0] * S), background=False
    )
    capper = FakeCapper()
    loop = ControlLoop("n1", capper, lambda *_: Fixed(), cluster="c", monotonic=lambda: now[0], wall_ns=lambda: 7)
    loop.on_command(desired(), 0)
    (poller,) = engines.pollers
    held_at: list[tuple[float, bool]] = []
    silent_from = 103.0
    for half in range(20):
        now[0] = 100.0 + half / 2
        server.text = TEXT % half
        server.fault = "500" if now[0] > silent_from else ""
        poller.ask()
        if half % 2 == 0:
            found = engines.read(int(now[0] * S)).engines
            columns = gpu_columns()
            sample = NodeTelemetry(
                cluster="c", node="n1", boot_id="b", seq=half, ts_ns=int(now[0] * S), source=("engines",),
                quality="measured", gpu=columns, engines=with_uuids(found, columns),
            )  # fmt: skip
        loop.step(now[0], sample)
        held_at.append((now[0], capper.locks.get(UUIDS[0]) == 1500))
    assert all(held for at, held in held_at if at <= silent_from)
    assert not any(held for at, held in held_at if at > silent_from + STALE_S)


@pytest.mark.parametrize(("clocks", "held"), [((1500, 1700), 1700), ((1700, None), None), ((None, 1500), None)])
def test_a_gpu_of_two_engines_gets_the_faster_clock(clocks: tuple[int | None, int | None], held: int | None) -> None:
    made = iter(Fixed(mhz) for mhz in clocks)
    capper = FakeCapper()
    loop = ControlLoop("n1", capper, lambda *_: next(made), cluster="c", monotonic=lambda: 1.0, wall_ns=lambda: 7)
    loop.on_command(desired(), 0)
    both = tuple(
        EngineReading(engine=name, kind="triton", stack="s", workload="w", gpu_uuid=(UUIDS[0],), ts_ns=S)
        for name in ("a", "b")
    )
    sample = NodeTelemetry(
        cluster="c", node="n1", boot_id="b", seq=1, ts_ns=S, source=("x",), quality="measured",
        gpu=gpu_columns(), engines=both,
    )  # fmt: skip
    loop.step(1.0, sample)
    assert capper.locks.get(UUIDS[0]) == held


# --- arrivals --------------------------------------------------------------------------------------------------------


def test_an_engine_is_asked_ten_times_a_second_only_where_its_answers_are_cheap(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    pace = Pace("chat", 0.5)
    for _ in range(SETTLED - 1):
        pace.note(0.0001, 0.002)
        assert (pace.fast, pace.interval_s) == (False, 0.5)
    pace.note(0.0001, 0.002)
    assert (pace.fast, pace.interval_s) == (True, FAST_S)
    assert (
        "engine chat: an answer costs 0.10 ms of CPU here and takes 2.0 ms, so it is asked every 0.1 s" in caplog.text
    )
    for _ in range(60):
        pace.note(0.0012, 0.002)  # a little dearer is no reason to change each second
    assert pace.fast
    for _ in range(60):
        pace.note(0.0001, 0.2)
    assert not pace.fast
    assert caplog.text.count("so it is asked every") == 2


def test_a_dear_engine_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    pace = Pace("chat", 0.5)
    for _ in range(50):
        pace.note(0.004, 0.030)
    assert (
        caplog.text.count(
            "engine chat: an answer costs 4.00 ms of CPU here and takes 30.0 ms, so it is asked every 0.5"
        )
        == 1
    )


def test_whoever_listens_is_told_of_requests_that_join_and_of_nothing_else(server: EngineServer) -> None:
    now = [100.0]
    engines = EnginesSource([settings(server.url, name="n1/r0")], wall_ns=lambda: int(now[0] * S), background=False)
    (poller,) = engines.pollers
    told: list[frozenset[str]] = []
    engines.on_joined(told.append)
    poller.pace.fast = True

    def ask(running: int, finished: int) -> None:
        now[0] += 0.1
        server.text = (
            f'vllm:num_requests_running{{model_name="m"}} {running}\nvllm:num_requests_waiting{{model_name="m"}} 0\n'
            f'vllm:request_success_total{{model_name="m"}} {finished}\n'
        )
        poller.ask()
        poller.pace.fast = True
        engines.engines_now(int(now[0] * S))

    ask(3, 10)
    ask(3, 10)
    ask(2, 11)  # one has left
    assert told == []
    ask(3, 11)
    ask(3, 12)  # one has left and one has come
    assert told == [frozenset({"n1/r0"})] * 2
    ask(0, 0)  # a restart
    assert len(told) == 2
    poller.pace.fast = False
    server.text = server.text.replace('running{model_name="m"} 0', 'running{model_name="m"} 9')
    now[0] += 0.1
    poller.ask()
    assert len(told) == 2  # an engine that cannot be asked often gets its round twice a second anyway


def test_between_records_the_loop_sees_each_answer_once_and_the_record_loses_nothing(server: EngineServer) -> None:
    now = [100.0]
    engines = EnginesSource(
        [settings(server.url, name="n1/r0"), settings(server.url, name="n1/r1")],
        wall_ns=lambda: int(now[0] * S), background=False,
    )  # fmt: skip

    def text(count: int) -> str:
        return (
            f'vllm:num_requests_running{{model_name="m"}} 1\n'
            f'vllm:time_to_first_token_seconds_bucket{{model_name="m",le="0.1"}} {count}\n'
            f'vllm:time_to_first_token_seconds_bucket{{model_name="m",le="+Inf"}} {count}\n'
            f'vllm:time_to_first_token_seconds_sum{{model_name="m"}} {count * 0.05}\n'
            f'vllm:time_to_first_token_seconds_count{{model_name="m"}} {count}\n'
        )

    seen = recorded = 0
    for half in range(21):
        now[0] = 100.0 + half / 2
        server.text = text(7 * half)
        for poller in engines.pollers:
            poller.ask()
        at = int(now[0] * S)
        (one,) = engines.engines_now(at, frozenset({"n1/r0"})) if half else engines.engines_now(at)[:1]
        assert engines.engines_now(at, frozenset({"n1/r0"}))[0] is one  # the same answer is no news
        seen += sum(one.ttft.count) if one.ttft else 0
        if half % 2 == 0:
            record = engines.read(at).engines[0]
            recorded += sum(record.ttft.count) if record.ttft else 0
    assert seen == recorded == 7 * 20
    assert engines.engines_now(int(now[0] * S), frozenset({"elsewhere"})) == ()
    assert engines.engines_now(int((now[0] + 60) * S)) == ()  # silent for too long: it left
