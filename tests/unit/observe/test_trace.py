"""Trace contexts, the light exporter and the capper's notes: hostile input, receivers that fail, and off = nothing."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.cli.metrics_docs import sample
from agents.node.agent import NodeAgent
from agents.node.errors import SettingsError
from agents.node.run import tracing as node_tracing
from agents.node.spool import Spool
from agents.node.tracing import NodeTracing
from streams.contract.records import EngineReading, Histogram
from streams.observe import hw, notes, otlp_json
from streams.observe.gen_ai import EngineLatencies
from streams.observe.otlp_json import LightTracer
from streams.observe.sdk import SdkTracer
from streams.observe.trace import Handoff, OtelSettings, TracingError, formatted, of_headers, parsed, traced
from tests.fakes.otlp_receiver import Receiver
from tests.fakes.sources import FakeSource, gpu_columns

GOOD = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
SETTINGS = OtelSettings(traces="http://127.0.0.1:1/v1/traces", metrics="http://127.0.0.1:1/v1/metrics")


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"00", GOOD.encode()[:-1], GOOD.encode() + b"0", GOOD.upper().encode(), b"01" + GOOD[2:].encode(),
        GOOD.replace("-01", "-00").encode(), b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", b"\xff" * 55,
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01", b"x" * 1_000_000, None,
    ],
)  # fmt: skip
def test_a_header_that_is_no_sampled_traceparent_counts_as_none(header: bytes | None) -> None:
    assert of_headers([("traceparent", header)]) is None


def test_a_valid_header_is_found_among_others() -> None:
    assert of_headers([("schema", b"1"), ("traceparent", GOOD.encode())]) == GOOD
    assert of_headers(None) is None and of_headers([]) is None
    assert parsed(GOOD) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert formatted(*parsed(GOOD) or ("", "")) == GOOD


def test_contexts_that_are_never_fetched_make_room() -> None:
    held = Handoff(most=3)
    for number in range(10):
        held.put(number, GOOD)
    assert list(held.held) == [7, 8, 9]
    assert held.take(9) == GOOD and held.take(9) is None and held.get(8) == GOOD


# --- settings ---


def test_off_by_default_and_by_opentelemetrys_own_names() -> None:
    assert OtelSettings.from_env({}) == OtelSettings()
    base = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}
    assert OtelSettings.from_env(base | {"OTEL_SDK_DISABLED": "true"}) == OtelSettings()
    on = OtelSettings.from_env(base | {"OTEL_EXPORTER_OTLP_HEADERS": "a=b%20c, d=e,f", "EO_TRACE_EVERY": "5"})
    assert (on.traces, on.metrics) == ("http://c:4318/v1/traces", "http://c:4318/v1/metrics")
    assert (dict(on.headers), on.every, on.metrics_interval_s) == ({"a": "b c", "d": "e"}, 5, 60.0)
    split = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://t/x", "OTEL_METRICS_EXPORTER": "none"}
    assert OtelSettings.from_env(base | split).traces == "https://t/x"
    assert OtelSettings.from_env(base | split).metrics == ""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, r"OTEL_EXPORTER_OTLP_ENDPOINT is 'c:4317'; give http://host:4318"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, r"PROTOCOL is 'grpc'; only OTLP over HTTP .* \(4318\)"),
        ({"EO_TRACE_EVERY": "0"}, r"EO_TRACE_EVERY is '0'; give a whole number from 1 to 1000000"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "1s"}, r"OTEL_METRIC_EXPORT_INTERVAL is '1s'; give a whole number"),
    ],
)
def test_a_setting_that_cannot_work_is_named(env: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"} | env
    with pytest.raises(TracingError, match=said):
        OtelSettings.from_env(whole)
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=said):
        node_tracing("eo-agent", list)


def test_off_imports_no_exporter_and_makes_no_thread() -> None:
    code = (
        "import sys, threading, agents.capper.run, streams.jobs.features, streams.commands_out\n"
        "import agents.node.run as run\n"
        "assert run.tracing('eo-agent', lambda: []) is None\n"
        "bad = [m for m in sys.modules if m.startswith('opentelemetry') or m.endswith(('otlp_json', 'observe.hw'))]\n"
        "bad += [m for m in ('agents.node.tracing', 'streams.observe.sdk') if m in sys.modules]\n"
        "assert not bad and threading.active_count() == 1, bad"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PATH": ""}, cwd=Path(__file__).parents[3], timeout=60)
    assert done.returncode == 0


def test_an_untraced_record_costs_no_look_at_its_headers_when_off() -> None:
    class Record:
        @property
        def headers(self) -> list[tuple[str, bytes]]:
            raise AssertionError("headers were read although tracing is off")

    with traced(None, "x", [Record()]):
        pass
    with notes.taking("", lambda: 1) as spans, notes.step("capper.set"):
        pass
    assert spans == []
    assert notes.step("a") is notes.step("b")


# --- the light exporter ---


def test_spans_arrive_decoded_by_opentelemetrys_own_proto() -> None:
    receiver = Receiver()
    settings = OtelSettings(traces=f"{receiver.url}/v1/traces", headers={"x-key": "k"})
    tracer = LightTracer(settings, "eo-agent", {"host.name": "n1"})
    root = tracer.start("agent.sample", attributes={"a": 1, "b": 1.5, "c": "x", "d": True}, links=[GOOD, "bad"])
    child = tracer.start("child", parent=root.traceparent, start_ns=5)
    child.end(9)
    root.end()
    tracer.relay(
        [notes.SpanNote(name="capper.set", trace_id="a" * 32, span_id="b" * 16, parent_id="c" * 16, start_ns=1,
                        end_ns=2, attributes={"eo.knob": "power"}, error="OSError: no")],
        service="eo-capper", pid=77,
    )  # fmt: skip
    tracer.close()
    receiver.close()
    assert receiver.refused == []
    by_name = {span.name: span for span in receiver.spans}
    assert by_name["child"].parent_id == by_name["agent.sample"].span_id
    assert (by_name["child"].start_ns, by_name["child"].end_ns) == (5, 9)
    assert by_name["agent.sample"].attributes == {"a": 1, "b": 1.5, "c": "x", "d": True}
    assert (by_name["capper.set"].service, by_name["capper.set"].pid) == ("eo-capper", 77)
    assert receiver.headers[0]["x-key"] == "k"


def test_the_sdks_spans_join_the_light_ones() -> None:
    receiver = Receiver()
    tracer = SdkTracer(OtelSettings(traces=f"{receiver.url}/v1/traces"), "eo-worker-features")
    span = tracer.start("features.process", parent=GOOD, links=[GOOD, "bad"], attributes={"k": "v"})
    root = tracer.start("alone", parent="not a traceparent")
    assert parsed(span.traceparent) is not None
    span.end()
    root.end()
    tracer.close()
    receiver.close()
    seen = {one.name: one for one in receiver.spans}
    assert (seen["features.process"].trace_id, seen["features.process"].parent_id) == parsed(GOOD)
    assert seen["alone"].parent_id == ""


def test_a_receiver_that_is_away_costs_spans_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    asked = threading.Event()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> None:
        asked.set()
        raise OSError("connection refused")

    tracer = LightTracer(SETTINGS, "eo-agent", post=post)
    for _ in range(otlp_json.MOST + 10):
        tracer.start("x").end()
    assert tracer.dropped == 10
    assert asked.wait(10)
    tracer.close()
    assert tracer.dropped > 10
    assert [r.message for r in caplog.records if "cannot be sent to http://127.0.0.1:1/v1/traces" in r.message]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 500 no\r\n\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b""]
)
def test_a_rude_receiver_is_an_error_and_no_more(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            connection, _ = server.accept()
            asked = b""
            while not asked.endswith(b"{}"):  # what is left unread when it closes would reset the connection
                asked += connection.recv(65_536)
            connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=once)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1/traces"
        if answer.startswith(b"HTTP/1.1 200"):
            otlp_json.post_json(url, {}, b"{}")
        else:
            with pytest.raises(OSError):
                otlp_json.post_json(url, {}, b"{}")
        thread.join(10)


def test_metrics_that_cannot_be_made_are_told_and_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[str] = []
    tracer = LightTracer(
        OtelSettings(metrics="http://x/v1/metrics", metrics_interval_s=0.001),
        "eo-agent",
        metrics=lambda: [{"bad": 1 / 0}],
        post=lambda url, headers, body: sent.append(url),
    )
    until(lambda: "could not be made" in caplog.text)
    tracer.start("not wanted: traces are off").end()
    tracer.close()
    assert sent == []


def test_hardware_metrics_carry_the_conventions_names_and_units() -> None:
    record = sample(2)
    found = {metric["name"]: metric for metric in hw.metrics([record], 0)}
    assert {"hw.energy", "hw.power", "hw.gpu.utilization", "hw.gpu.memory.usage", "hw.temperature"} <= set(found)
    assert found["hw.energy"]["unit"] == "J" and found["hw.energy"]["sum"]["isMonotonic"] is True
    assert found["hw.temperature"]["unit"] == "Cel" and found["hw.gpu.memory.limit"]["unit"] == "By"
    assert "eo.gpu.power_limit" in found and not [name for name in found if name.startswith("hw.") and "limit" in name
                                                  and name != "hw.gpu.memory.limit"]  # fmt: skip
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": list(found.values())}]}]}
    receiver = Receiver()
    otlp_json.post_json(f"{receiver.url}/v1/metrics", {}, json.dumps(body).encode())
    receiver.close()
    assert receiver.refused == [] and receiver.metrics["hw.power"][0]["hw.type"] in ("gpu", "cpu")


def test_engines_latencies_add_up_under_the_conventions_names_in_seconds() -> None:
    import msgspec

    engine = EngineReading(
        engine="chat-0", kind="vllm", stack="llama/vllm", workload="w", gpu_uuid=(), ts_ns=1,
        # 50 ms lies in bucket 180 (49.4 to 50.5), 200 ms in 244.
        ttft=Histogram(index=(180, 244), count=(3, 1), sum_ms=350.0),
        tbt=Histogram(index=(180,), count=(10,), sum_ms=500.0),
    )  # fmt: skip
    record = msgspec.structs.replace(sample(1), engines=(engine,))
    found = EngineLatencies()
    for _ in range(2):
        found.add(record)
    metrics = {metric["name"]: metric for metric in found.metrics()}
    assert set(metrics) == {"gen_ai.server.time_to_first_token", "gen_ai.server.time_per_output_token"}
    first = metrics["gen_ai.server.time_to_first_token"]
    (point,) = first["histogram"]["dataPoints"]
    counts = dict(zip([*point["explicitBounds"], "more"], map(int, point["bucketCounts"]), strict=True))
    assert (first["unit"], point["count"], point["sum"]) == ("s", "8", pytest.approx(0.7))
    assert {bound: count for bound, count in counts.items() if count} == {0.06: 6, 0.25: 2}
    body = {"resourceMetrics": [{"scopeMetrics": [{"metrics": list(metrics.values())}]}]}
    receiver = Receiver()
    otlp_json.post_json(f"{receiver.url}/v1/metrics", {}, json.dumps(body).encode())
    receiver.close()
    assert receiver.refused == []
    (seen,) = receiver.metrics["gen_ai.server.time_to_first_token"]
    assert (seen["gen_ai.provider.name"], seen["gen_ai.request.model"]) == ("vllm", "llama")
    assert (seen["kind"], seen["unit"], seen["value"]) == ("histogram", "s", pytest.approx(0.7))


def test_a_value_at_a_bound_stays_below_it_and_absurd_ones_hurt_nothing() -> None:
    import msgspec

    def engine(name: str, histogram: Histogram) -> EngineReading:
        return EngineReading(engine=name, kind="tgi", stack="m/tgi", workload="w", gpu_uuid=(), ts_ns=1, e2e=histogram)

    odd = Histogram(index=(-(2**60), 0, 2**60), count=(1, 1, 1))
    edge = Histogram(index=(round(math.log2(10.0) * 32) - 1,), count=(5,))  # where engines' 10 ms are put
    record = msgspec.structs.replace(sample(1), engines=(engine("odd", odd), engine("edge", edge)))
    found = EngineLatencies()
    found.add(record)
    ((first, second),) = [metric["histogram"]["dataPoints"] for metric in found.metrics()]
    assert (first["bucketCounts"][0], first["bucketCounts"][-1], first["count"]) == ("2", "1", "3")
    assert second["bucketCounts"][0] == "5"


def test_the_number_of_engines_is_bounded() -> None:
    import msgspec

    found = EngineLatencies()
    for n in range(3):
        engines = tuple(
            EngineReading(
                engine=f"{n}-{k}", kind="k", stack="s", workload="w", gpu_uuid=(), ts_ns=1,
                ttft=Histogram(index=(1,), count=(1,)),
            )
            for k in range(1000)
        )  # fmt: skip
        found.add(msgspec.structs.replace(sample(1), engines=engines))
    assert len(found.metrics()[0]["histogram"]["dataPoints"]) <= 512 * 3


def test_the_whole_host_has_a_name_of_its_own() -> None:
    import msgspec

    record = sample(1)
    assert record.domains is not None
    chassis = msgspec.structs.replace(record.domains, kind=("chassis",), power_w=(1950.0,), parent=(None,))
    found = {m["name"]: m for m in hw.metrics([msgspec.structs.replace(record, domains=chassis, gpu=None)], 0)}
    assert found["hw.host.power"]["gauge"]["dataPoints"][0]["asDouble"] == 1950.0
    assert "hw.power" not in found


# --- the capper's notes ---


def test_notes_nest_keep_the_outermost_and_stay_bounded() -> None:
    clock = iter(range(10_000))
    with notes.taking(GOOD, lambda: next(clock)) as spans, notes.step("capper.grant"):
        for _ in range(200):
            with notes.step("capper.set", **{"hw.id": "GPU-1"}):
                pass
    assert len(spans) == notes.MOST + 1 and spans[-1].name == "capper.grant"
    assert (spans[-1].trace_id, spans[-1].parent_id) == parsed(GOOD)
    assert spans[0].parent_id == spans[-1].span_id and spans[0].end_ns > spans[0].start_ns


def test_a_failure_is_noted_and_goes_on() -> None:
    with pytest.raises(OSError), notes.taking(GOOD) as spans, notes.step("capper.set"):
        raise OSError("driver gone")
    assert spans[0].error == "OSError: driver gone"
    with notes.taking("no traceparent") as none, notes.step("x"):
        pass
    assert none == []


# --- the node agent ---


def test_one_sample_in_n_of_each_node_begins_a_trace_and_only_its_record_carries_it(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []
    tracer = LightTracer(SETTINGS, "eo-agent", post=lambda url, headers, body: bodies.append(json.loads(body)))
    tracing = NodeTracing(tracer, every=3)
    spool = Spool(tmp_path, max_bytes=1 << 20, segment_bytes=1 << 16)
    agents = [NodeAgent("c", n, [FakeSource("a", gpu=gpu_columns(1))], spool, tracing=tracing) for n in ("n1", "n2")]
    for second in range(6):
        for agent in agents:
            agent.sample(second * 10**9)
    headers = [dict(tracing.telemetry_headers(record)) for record in spool.read(0, 100)]
    assert ["traceparent" in one for one in headers] == [True, True, False, False, False, False] * 2
    tracer.close()
    spool.close()
    names = [span["name"] for body in bodies for span in body["resourceSpans"][0]["scopeSpans"][0]["spans"]]
    assert names == ["agent.sample"] * 4


def test_a_capper_of_another_release_costs_the_trace_and_not_the_command() -> None:
    from agents.node.capper_client import SocketCapper
    from streams.contract import codec
    from tests.fakes.sources import applied

    client = SocketCapper(Path("/nowhere"))
    ack = json.loads(codec.encode(applied("command", "applied")))
    client._call = lambda request: {"ok": True, "ack": ack, "spans": [{"name": 5}]}  # type: ignore[method-assign]
    found, spans, pid = client.grant_traced(b"{}", received_ns=1, traceparent=GOOD)
    assert (found.node, spans, pid) == (ack["node"], [], 0)
