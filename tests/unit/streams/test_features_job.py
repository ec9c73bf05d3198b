"""The features job: exact books, no duplicate counted, the same outputs with and without a restart, offline equal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.features.registry import FEATURES
from models.features.window import COLUMNS, of_series
from streams.contract import codec
from streams.contract import records as r
from streams.contract.topics import FEATURES as OUTPUT
from streams.contract.topics import TELEMETRY
from streams.jobs import features as features_module
from streams.jobs import features_wire as wire
from streams.jobs.features import CHUNK, FeaturesJob, chunks
from streams.jobs.features_state import FORGET_S, MOST_AT_ONCE, SPARE_GPUS
from streams.jobs.features_wire import Reader, Sample
from tests.unit.streams.support import MemoryPublisher, MemoryReplay, MemoryState, Record, context

S = 1_000_000_000
T0 = 1_760_000_000 * S
GPUS = 3
Values = dict[tuple[str, str, int, str], dict[str, float | None]]


def message(node: str, seq: int, *, boot: str = "b1", ts_ns: int | None = None, gpus: int = GPUS) -> r.NodeTelemetry:
    """Telemetry that varies with everything, with unknown values and an engine over the first two GPUs."""
    rng = np.random.default_rng([sum(node.encode()), seq, sum(boot.encode())])

    def some(low: float, high: float) -> tuple[float | None, ...]:
        return tuple(float(x) if rng.random() > 0.1 else None for x in rng.uniform(low, high, gpus))

    uuid = tuple(f"GPU-{node}-{index}" for index in range(gpus))
    return r.NodeTelemetry(
        cluster="test",
        node=node,
        boot_id=boot,
        seq=seq,
        ts_ns=T0 + seq * S if ts_ns is None else ts_ns,
        source=("twin",),
        quality="simulated",
        gpu=r.GpuColumns(
            uuid=uuid,
            name=("H100",) * gpus,
            power_w=some(30, 700),
            energy_mj=tuple(seq * 400_000 + index for index in range(gpus)),
            sm_mhz=tuple(int(x) for x in rng.integers(300, 1980, gpus)),
            util_ratio=some(0, 1),
            temp_c=some(30, 90),
            throttle=(0, 4, 1)[:gpus],
        ),
        engines=(
            r.EngineReading(
                engine=f"{node}-e",
                kind="twin",
                stack="s",
                workload="w",
                gpu_uuid=uuid[:2],
                ts_ns=1,
                generation_tokens_total=seq * 100,
                tbt=r.Histogram(index=(1, 2), count=(3, 4), sum_ms=9.0),
            ),
        ),
    )


def partition(messages: Sequence[r.NodeTelemetry | bytes | None]) -> list[Record]:
    return [
        Record(offset, codec.encode(one) if isinstance(one, r.Record) else one, timestamp=offset * 1000)
        for offset, one in enumerate(messages)
    ]


def mixed(nodes: int = 4, seconds: int = 90) -> list[Record]:
    """Several nodes, one that boots anew, one that is away for a while, duplicates of the log itself."""
    out: list[r.NodeTelemetry | bytes | None] = []
    for second in range(1, seconds):
        for node in range(nodes):
            if node == 1 and 30 <= second < 75:
                continue
            boot = "b2" if node == 2 and second > 40 else "b1"
            seq = second - 40 if boot == "b2" else second
            out.append(message(f"n{node}", seq, boot=boot, ts_ns=T0 + second * S))
            if second % 17 == 0:
                out.append(out[-1])
    return partition(out)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[FeaturesJob, MemoryPublisher]]:
    def make(log: list[Record], state: MemoryState | None = None, *, low: int = 0) -> tuple[FeaturesJob, Any]:
        monkeypatch.setattr(features_module, "Replay", MemoryReplay(log, low=low))
        publisher, made = MemoryPublisher(), FeaturesJob()
        made.start(context(tmp_path, publisher=publisher, state=state))
        made.assign(frozenset({0}))
        return made, publisher

    return make


def feed(job: FeaturesJob, log: list[Record], batch: int = 50) -> None:
    for at in range(0, len(log), batch):
        job.process(TELEMETRY, 0, log[at : at + batch])


def outputs(publisher: MemoryPublisher) -> list[r.NodeFeatures]:
    return [codec.decode(r.NodeFeatures, value) for topic, _, value in publisher.sent if topic == OUTPUT.name]


def values(found: list[r.NodeFeatures]) -> Values:
    return {
        (one.node, one.boot_id, one.seq, uuid): {name: one.features[name][at] for name in one.features}
        for one in found
        for at, uuid in enumerate(one.uuid)
    }


def offline(log: list[Record]) -> Values:
    """The same features from whole series of each GPU and boot, by the shared window rule."""
    series: dict[tuple[str, str, str], list[r.NodeTelemetry]] = {}
    for record in log:
        one = codec.decode(r.NodeTelemetry, record.value)
        assert one.gpu is not None
        for uuid in one.gpu.uuid:
            kept = series.setdefault((one.node, one.boot_id, uuid), [])
            if not kept or kept[-1].seq < one.seq:
                kept.append(one)
    out: Values = {}
    for (node, boot, uuid), kept in series.items():
        columns = {name: np.array([_value(one, name, uuid) for one in kept], np.float64) for name in COLUMNS}
        window = of_series(np.array([one.ts_ns for one in kept], np.int64), columns)
        computed = {feature.name: feature.compute(window).tolist() for feature in FEATURES}
        for index, one in enumerate(kept):
            out[node, boot, one.seq, uuid] = {
                name: None if column[index] != column[index] else column[index] for name, column in computed.items()
            }
    return out


def _value(one: r.NodeTelemetry, name: str, uuid: str) -> float | None:
    assert one.gpu is not None
    at = one.gpu.uuid.index(uuid)
    if name != "tokens":
        column = getattr(one.gpu, name)
        return None if column is None else column[at]
    total = one.engines[0].generation_tokens_total if one.engines else None
    return total / 2 if total is not None and at < 2 else None


def test_stream_equals_offline_bit_by_bit(job: Any) -> None:
    log = mixed()
    made, publisher = job(log)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)


@pytest.mark.parametrize("batch", [1, 7, 500])
def test_the_size_of_batches_changes_nothing(job: Any, batch: int) -> None:
    log = mixed(seconds=70)
    made, publisher = job(log)
    feed(made, log, batch)
    assert values(outputs(publisher)) == offline(log)


def test_one_node_alone_in_a_long_batch(job: Any) -> None:
    log = partition([message("n", seq) for seq in range(300)])
    made, publisher = job(log)
    feed(made, log, 300)
    assert values(outputs(publisher)) == offline(log)


@pytest.mark.parametrize("cut", [5, 120, 200, 300])
@pytest.mark.parametrize("snapshot", [True, False])
def test_a_restart_gives_the_same_outputs_as_no_restart(job: Any, cut: int, snapshot: bool) -> None:
    log = mixed()
    whole, straight = job(log)
    feed(whole, log)
    state = MemoryState()
    first, before = job(log, state)
    feed(first, log[:cut])
    first.revoke(frozenset({0}))
    second, after = job(log, state if snapshot else MemoryState())
    feed(second, log[cut:])
    restarted = values(outputs(before)) | values(outputs(after))
    assert restarted == values(outputs(straight))


@pytest.mark.parametrize("resumed", [170, 250, 260])
def test_after_a_crash_the_repeated_outputs_are_equal(job: Any, resumed: int) -> None:
    """A kill -9 goes back to the last commit, before or after what the snapshot has seen."""
    log, state = mixed(nodes=2, seconds=200), MemoryState(ready=True)
    first, before = job(log, state)
    feed(first, log[:250])
    list(first.tick())
    feed(first, log[250:280])
    second, after = job(log, state)
    feed(second, log[resumed:])
    repeated, original = values(outputs(after)), values(outputs(before))
    assert {key: repeated[key] for key in repeated.keys() & original.keys()} == {
        key: original[key] for key in repeated.keys() & original.keys()
    }
    assert repeated | original == offline(log)


def test_recovery_reads_only_the_last_minute_when_a_snapshot_is_there(job: Any, monkeypatch: Any) -> None:
    log, state = partition([message(f"n{k}", seq) for seq in range(200) for k in range(2)]), MemoryState()
    first, _ = job(log, state)
    feed(first, log)
    first.revoke(frozenset({0}))
    replay = MemoryReplay(log)
    monkeypatch.setattr(features_module, "Replay", replay)
    second, _ = job([])
    monkeypatch.setattr(features_module, "Replay", replay)
    second._ctx = context(Path("x"), publisher=MemoryPublisher(), state=state)
    second.process(TELEMETRY, 0, [Record(400, codec.encode(message("n0", 200)))])
    assert replay.reads == [(280, 400)]


def test_a_snapshot_ahead_of_the_commit_or_of_another_version_is_not_used(job: Any) -> None:
    log, state = mixed(), MemoryState()
    state.save("features", 0, {"next": 10**9, "marks": {"n0": {"b1": 10_000}}}, {TELEMETRY.name: 0})
    made, publisher = job(log, state)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)
    state.save("features", 0, {"next": 0, "marks": {"n0": {"b1": 10_000}}}, {TELEMETRY.name: 0}, version=99)
    made, publisher = job(log, state)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)


def test_duplicates_of_the_log_change_nothing_and_are_counted(job: Any) -> None:
    log = partition([message("n", 1), message("n", 2), message("n", 1), message("n", 2), message("n", 3)])
    made, publisher = job(log)
    feed(made, log)
    assert [one.seq for one in outputs(publisher)] == [1, 2, 3]
    assert (made.counts.new, made.counts.duplicates, made.counts.dead) == (3, 2, 0)


def test_a_late_duplicate_of_an_earlier_boot_changes_nothing(job: Any) -> None:
    log = partition([message("n", 5), message("n", 1, boot="b2"), message("n", 5), message("n", 2, boot="b2")])
    made, publisher = job(log)
    feed(made, log)
    assert [(one.boot_id, one.seq) for one in outputs(publisher)] == [("b1", 5), ("b2", 1), ("b2", 2)]


POISON: list[tuple[bytes | None, str]] = [
    (b"\xff\xfe", "NodeTelemetry: "),
    (b"{}", "missing required field"),
    (None, "a tombstone"),
    (b"[" * 100_000, "NodeTelemetry: "),
    (codec.encode(message("n", 1)).replace(b'"schema":1', b'"schema":2'), "schema 2 is not 1"),
    (codec.encode(message("n", 1)).replace(b'"seq":1', b'"seq":99999999999999999999'), "NodeTelemetry: "),
    (codec.encode(message("n", 1)).replace(b'"power_w":[', b'"power_w":[1.0,'), "column power_w has 4 values for 3"),
    (codec.encode(message("n", 1)).replace(b"GPU-n-0", b"GPU-n-1", 1), "a GPU is named twice"),
    (codec.encode(message("n", 1)).replace(b'"gpu_uuid":[', b'"gpu_uuid":[7,'), "engines: "),
]


@pytest.mark.parametrize(("value", "reason"), POISON)
def test_poison_goes_to_the_dead_letters_with_its_reason_and_bytes(job: Any, value: bytes, reason: str) -> None:
    log = partition([message("a", 1), value, message("a", 2)])
    made, publisher = job(log)
    feed(made, log)
    ((dead, key, kept),) = publisher.dead
    assert (dead.topic, dead.partition, dead.offset, dead.component) == (TELEMETRY.name, 0, 1, "features")
    assert reason in dead.error
    assert (key, kept) == (b"key", value)
    assert [one.seq for one in outputs(publisher)] == [1, 2]


def test_in_equals_good_plus_duplicates_plus_dead(job: Any) -> None:
    log = partition([message("a", 1), b"x", message("a", 1), None, message("b", 1), b"{}"])
    made, _ = job(log)
    feed(made, log, 2)
    counts = made.counts
    assert len(log) == counts.new + counts.duplicates + counts.dead
    assert (counts.new, counts.dead, counts.gpus) == (2, 3, 2 * GPUS)


def test_engines_name_quality_and_key_are_passed_on(job: Any) -> None:
    log = partition([message("n", 1)])
    made, publisher = job(log)
    feed(made, log)
    (topic, key, _), (one,) = publisher.sent[0], outputs(publisher)
    assert (topic, key) == (OUTPUT.name, b"n")
    assert one.engines == message("n", 1).engines
    assert (one.quality, one.cluster, one.name) == ("simulated", "test", ("H100",) * GPUS)
    assert (one.window_end_ns, one.emitted_ns) == (T0 + S, 123)


def test_a_node_without_gpus_gives_no_features_and_no_error(job: Any) -> None:
    bare = msgspec.structs.replace(message("h", 1), gpu=None, engines=())
    made, publisher = job(partition([bare, message("n", 1)]))
    feed(made, partition([bare, message("n", 1)]))
    assert [one.node for one in outputs(publisher)] == ["n"]


def test_gpus_that_come_and_go_keep_their_own_windows(job: Any) -> None:
    log = partition([message("n", seq, gpus=3 if seq % 5 else 2) for seq in range(80)])
    made, publisher = job(log)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)


def test_more_gpus_than_the_first_array_holds(job: Any) -> None:
    log = partition([message(f"n{k}", seq) for seq in range(3) for k in range(120)])
    made, publisher = job(log)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)


def samples(*wanted: tuple[str, int, str]) -> Iterator[Sample]:
    for offset, (node, seq, boot) in enumerate(wanted):
        yield Reader().read(offset, codec.encode(message(node, seq, boot=boot)))


def test_parts_keep_order_and_never_mix_two_boots_of_a_node() -> None:
    parts = chunks(samples(("a", 1, "b1"), ("b", 1, "b1"), ("a", 2, "b1"), ("a", 1, "b2"), ("b", 2, "b1")))
    assert [[one.offset for one in part] for part in parts] == [[0, 1, 2], [3, 4]]


def test_parts_are_bounded() -> None:
    parts = chunks(samples(*(("a", seq, "b1") for seq in range(MOST_AT_ONCE + 1))))
    assert [len(part) for part in parts] == [MOST_AT_ONCE, 1]
    many = chunks(samples(*((f"n{number}", 1, "b1") for number in range(CHUNK + 1))))
    assert [len(part) for part in many] == [CHUNK, 1]


# --- what must not grow, and clocks that lie ---


class Time:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def timed(job: FeaturesJob) -> Time:
    time = Time()
    job._ctx = dataclasses.replace(job._ctx, monotonic=time)
    return time


def renamed(seq: int, uuid: tuple[str, ...], **more: Any) -> r.NodeTelemetry:
    one = message("n", seq, **more)
    assert one.gpu is not None
    return msgspec.structs.replace(one, gpu=msgspec.structs.replace(one.gpu, uuid=uuid), engines=())


def test_gpus_with_ever_new_names_do_not_fill_the_memory(job: Any) -> None:
    """MIG instances are named anew with each division of a GPU, while node and boot stay."""
    log = partition([renamed(seq, tuple(f"MIG-{seq}-{k}" for k in range(GPUS))) for seq in range(300)])
    made, publisher = job(log)
    feed(made, log)
    state = made._states[0]
    assert state.rows == GPUS + SPARE_GPUS
    assert values(outputs(publisher)) == offline(log)


def test_rows_of_an_ended_boot_serve_again(job: Any) -> None:
    boots = [message("n", seq, boot=f"b{boot}", ts_ns=T0 + boot * 3600 * S) for boot in range(50) for seq in range(3)]
    log = partition(boots)
    made, publisher = job(log)
    feed(made, log)
    assert made._states[0].rows == GPUS
    assert values(outputs(publisher)) == offline(log)


def test_a_node_silent_for_two_days_is_forgotten_and_no_other(job: Any) -> None:
    log = partition([message("gone", 1), message("stays", 1), message("stays", 2), message("gone", 2)])
    state = MemoryState(ready=True)
    made, publisher = job(log, state)
    time = timed(made)
    feed(made, log[:2])
    time.now_s += FORGET_S + 1
    made.process(TELEMETRY, 0, log[2:3])
    list(made.tick())
    assert set(made._states[0].nodes) == {"stays"} and made._states[0].rows == GPUS
    assert b"gone" not in bytes(state.saved["features", 0].data)
    made.process(TELEMETRY, 0, log[3:])
    assert [(one.node, one.seq) for one in outputs(publisher)][-1] == ("gone", 2)


def test_how_long_a_node_was_silent_outlives_the_process(job: Any) -> None:
    log = partition([message("gone", 1), message("stays", 1), message("stays", 2), message("stays", 3)])
    state = MemoryState(ready=True)
    first, _ = job(log, state)
    time = timed(first)
    feed(first, log[:2])
    time.now_s += FORGET_S - 10
    first.process(TELEMETRY, 0, log[2:3])
    list(first.tick())
    second, _ = job(log, state)
    time = timed(second)
    second.process(TELEMETRY, 0, log[3:])
    time.now_s += 20
    list(second.tick())
    assert set(second._states[0].nodes) == {"stays"}


def test_one_clock_far_ahead_costs_the_others_nothing_at_a_restart(job: Any) -> None:
    def at(seq: int) -> list[r.NodeTelemetry]:
        return [message("n", seq), message("ahead", seq, ts_ns=T0 + 10**9 * S + seq * S)]

    log = partition([one for seq in range(100) for one in at(seq)])
    state = MemoryState()
    first, before = job(log, state)
    feed(first, log[:120])
    first.revoke(frozenset({0}))
    second, after = job(log, state)
    feed(second, log[120:])
    assert values(outputs(before)) | values(outputs(after)) == offline(log)


@pytest.mark.parametrize("broken", ["data", "offsets"])
def test_a_snapshot_that_cannot_be_read_does_not_stop_the_worker(job: Any, broken: str) -> None:
    log, state = mixed(), MemoryState()
    if broken == "data":
        state.save("features", 0, {"next": "soon"}, {TELEMETRY.name: 0})
    else:
        state.save("features", 0, {"next": 0, "marks": {}}, {"another": 0})
    made, publisher = job(log, state)
    feed(made, log)
    assert values(outputs(publisher)) == offline(log)


def test_boards_that_never_repeat_are_forgotten_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_BOARD_BYTES", 10_000)
    reader = Reader()
    for seq in range(50):
        reader.read(seq, codec.encode(renamed(seq, tuple(f"{'x' * 300}-{seq}-{k}" for k in range(GPUS)))))
        assert sum(map(len, reader._boards)) <= 10_000
    assert len(reader._boards) > 1


def test_tokens_beyond_the_contract_are_dead_letters_here_too(job: Any) -> None:
    """What is passed on as bytes must decode at its readers."""
    raw = codec.encode(message("n", 1)).replace(b'"generation_tokens_total":100', b'"generation_tokens_total":1e300')
    log = partition([raw, message("n", 2)])
    made, publisher = job(log)
    feed(made, log)
    assert len(publisher.dead) == 1 and [one.seq for one in outputs(publisher)] == [2]


def test_unknown_is_null_on_the_wire(job: Any) -> None:
    first = message("n", 1)
    assert first.gpu is not None
    gpu = msgspec.structs.replace(first.gpu, power_w=(1e308, None, -0.0), temp_c=None)
    log = partition([msgspec.structs.replace(first, gpu=gpu, engines=())])
    made, publisher = job(log)
    feed(made, log)
    features = json.loads(publisher.sent[0][2])["features"]
    assert features["power_w_last"] == [None, None, 0.0]
    assert features["temp_slope_c_per_min"] == [None] * GPUS
    assert b"NaN" not in publisher.sent[0][2] and b"nan" not in publisher.sent[0][2]
