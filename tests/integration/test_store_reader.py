"""The online store filled from a real broker, and `eo features get` on it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from agents.cli.main import main
from models.features.registry import BY_NAME
from streams.contract.records import NodeFeatures
from streams.contract.topics import FEATURES
from streams.publisher import Publisher
from streams.store.online import OnlineStore
from streams.store.reader import fill
from streams.store.registry import ttl_s

pytestmark = pytest.mark.integration
POWER, S = "power_w_mean_60s", 1_000_000_000


def publish(bootstrap: str, records: list[NodeFeatures], *, junk: bool = False) -> None:
    publisher = Publisher(bootstrap, "store-test")
    for record in records:
        publisher.send(record, record.node, source="features")
    if junk:
        publisher.send_raw(FEATURES.name, records[0].node.encode(), b"not json", ())
    assert publisher.flush(30) == 0


def record(node: str, seq: int, end_ns: int, value: float | None) -> NodeFeatures:
    return NodeFeatures(
        cluster="c",
        node=node,
        boot_id="b",
        seq=seq,
        window_end_ns=end_ns,
        emitted_ns=end_ns,
        quality="simulated",
        uuid=(f"GPU-store-{node}-0", f"GPU-store-{node}-1"),
        features={POWER: (value, None)},
    )


def test_newest_value_of_every_node_is_found_and_junk_is_passed_over(topics: str) -> None:
    now_ns = time.time_ns()
    records = [record(f"reader-{n}", seq, now_ns + seq, float(100 * n + seq)) for seq in range(3) for n in range(20)]
    publish(topics, records, junk=True)
    store = OnlineStore(ttl_s())
    assert fill(store, topics, since_ms=now_ns // 1_000_000 - 1000) >= len(records)
    for n in range(20):
        assert store.get(f"GPU-store-reader-{n}-0", POWER, now_ns=now_ns).value == 100 * n + 2
    assert store.get("GPU-store-reader-0-1", POWER, now_ns=now_ns).state == "unknown"


def test_features_get_shows_fresh_unknown_and_expired(
    topics: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", topics)
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    ahead_ns = time.time_ns() + 3600 * S  # never expires while the test runs
    publish(topics, [record("fresh", 0, ahead_ns, 321.5), record("stale", 0, ahead_ns - 7200 * S, 1.0)])
    monkeypatch.setenv("EO_CLUSTER", "c")
    assert main(["features", "get", "GPU-store-fresh-0", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    found = {value["feature"]: value for value in answer["values"]}
    assert answer["node"] == "fresh"
    assert set(found) == set(BY_NAME)
    assert (found[POWER]["value"], found[POWER]["state"], found[POWER]["unit"]) == (321.5, "fresh", "W")
    assert (found["waste_w"]["value"], found["waste_w"]["state"]) == (None, "unknown")
    assert main(["features", "get", "GPU-store-stale-0", POWER]) == 0
    assert "expired (lives 10 s)" in capsys.readouterr().out
    assert main(["features", "get", "GPU-store-nobody"]) == 1
    assert "no features of a GPU 'GPU-store-nobody' in the last 120 s" in capsys.readouterr().err
