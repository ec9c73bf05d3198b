"""pause, resume, cap and explain as a user types them, against a real broker and a running actuation job."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest

from agents.cli.kafka_read import Reader
from agents.cli.main import main
from streams.contract.records import PowerDesired
from streams.contract.topics import INTENT
from tests.integration.test_actuation import Running, Site, until

pytestmark = pytest.mark.integration
Out = pytest.CaptureFixture[str]


@pytest.fixture
def site(topics: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    site = Site(topics, tmp_path)
    monkeypatch.setenv("KAFKA_BOOTSTRAP", topics)
    monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("EO_CLUSTER", site.cluster)
    # What the commands say is dated by this machine's clock, so the job must live in the same time.
    yield site


def told(out: Out, *argv: str, code: int = 0) -> str:
    assert main(list(argv)) == code
    seen = out.readouterr()
    return seen.out if code == 0 else seen.err


def report(running: Running) -> None:
    """Puts what the nodes report on the topic too, where the verbs look for GPUs."""
    from tests.unit.jobs.support import features

    now = running.site.clock.wall_ns()
    for node in running.site.nodes[:2]:
        import msgspec

        record = msgspec.structs.replace(features(node, 1, ts_ns=now), cluster=running.site.cluster)
        running.site.send(record, node)


def capped(site: Site, uuid: str) -> float | None:
    newest = {c.node: c for c in site.commands()}
    values = [c.gpu.max_power_w[c.gpu.uuid.index(uuid)] for c in newest.values() if uuid in c.gpu.uuid]
    return values[0] if values else None


def test_a_cap_is_set_shown_explained_and_cleared(site: Site, capsys: Out) -> None:
    running = Running(site)
    report(running)
    for _ in range(6):
        running.beat()
    newest = {c.node: c for c in site.commands()}
    mine = [newest[n] for n in site.nodes[:2]]
    free = [u for c in mine for u, h in zip(c.gpu.uuid, c.gpu.holdout, strict=True) if not h]
    held = [u for c in newest.values() for u, h in zip(c.gpu.uuid, c.gpu.holdout, strict=True) if h]
    target = free[0]

    dry = told(capsys, "cap", "set", target, "450", "--dry-run")
    assert dry.startswith(f"Would cap {target} at 450 W")
    assert told(capsys, "cap", "show") == "No cap and no pause is in force.\n"
    assert "pass --yes" in told(capsys, "cap", "set", target, "450", code=3)
    said = json.loads(
        told(capsys, "cap", "set", target, "450", "--for", "10m", "--reason", "hot aisle", "--yes", "--json")
    )
    assert (said["kind"], said["scope"], said["max_power_w"], said["sent"]) == ("cap", f"gpu/{target}", 450.0, True)

    def now_capped() -> float | None:
        running.beat(0.1)
        return capped(site, target)

    until(lambda: now_capped() == 450.0)
    assert "hot aisle" in told(capsys, "cap", "show")
    explained = told(capsys, "explain", target)
    assert "A human's cap of 450 W: hot aisle" in explained and said["intent_id"] in explained
    rows = json.loads(told(capsys, "explain", target, "--json"))
    assert rows["gpus"][0]["command"]["max_power_w"] == 450.0
    assert "GPUs: " in told(capsys, "explain", site.nodes[0])

    if held and any(u in c.gpu.uuid for u in held for c in mine):
        mine_held = next(u for u in held if any(u in c.gpu.uuid for c in mine))
        assert "belongs to the hold-out" in told(capsys, "cap", "set", mine_held, "450", "--yes", code=3)

    assert told(capsys, "cap", "clear", target, "--yes").startswith("Ended the cap")
    until(lambda: now_capped() != 450.0)
    running.stop()


def test_pause_and_resume(site: Site, capsys: Out) -> None:
    running = Running(site)

    def newest() -> dict[str, PowerDesired]:
        running.beat(0.5)
        return {c.node: c for c in site.commands()}

    def granted(commands: Iterable[PowerDesired]) -> bool:
        return any(1980 in c.gpu.max_sm_mhz for c in commands)

    until(lambda: granted(newest().values()))
    assert told(capsys, "pause", "--for", "10m", "--reason", "driver update", "--yes").startswith("Paused the cluster")
    until(lambda: all(c.cause for c in newest().values()))  # the pause is the only cause there is
    assert not granted(newest().values())
    # Commands are told apart by their identity: the topic is compacted, so that their number may fall at any time.
    silent = {(c.node, c.epoch, c.seq) for c in site.commands()}
    running.beat(6.0)
    assert {(c.node, c.epoch, c.seq) for c in site.commands()} <= silent
    assert "pause" in told(capsys, "cap", "show")
    assert told(capsys, "resume", "--yes") == f"Resumed the cluster ({site.cluster}).\n"

    until(lambda: granted(newest().values()))
    running.stop()


def test_a_cap_of_a_paused_node_and_its_pause_stand_side_by_side(site: Site, capsys: Out) -> None:
    running = Running(site, mode="observe")
    report(running)
    node = site.nodes[0]

    def shown() -> list[tuple[str, str]]:
        return [(row["scope"], row["kind"]) for row in json.loads(told(capsys, "cap", "show", "--json"))]

    told(capsys, "pause", "--node", node, "--yes")
    told(capsys, "cap", "set", node, "4000", "--yes")
    assert shown() == [(f"node/{node}", "cap"), (f"node/{node}", "pause")]
    with Reader(site.bootstrap, INTENT.name) as reader:
        keys = [m.key for m in reader.last(None) if m.key is not None and node.encode() in m.key]
    assert keys == [f"{site.cluster}:node/{node}#pause".encode(), f"{site.cluster}:node/{node}#cap".encode()]
    told(capsys, "resume", "--node", node, "--yes")
    assert shown() == [(f"node/{node}", "cap")]
    told(capsys, "cap", "clear", node, "--yes")
    assert shown() == []
    running.stop()


def test_what_bad_input_gets(site: Site, capsys: Out) -> None:
    running = Running(site, mode="observe")
    report(running)
    uuid = f"GPU-{site.nodes[0]}-0"
    assert "no node or GPU 'GPU-nowhere'" in told(capsys, "explain", "GPU-nowhere", code=1)
    assert "8 GPUs begin with" in told(capsys, "explain", f"GPU-{site.nodes[0]}-", code=1)
    assert "outside 0 to 2000 W; give watts, not milliwatts" in told(capsys, "cap", "set", uuid, "450000", code=2)
    assert "eo cap set GPU WATTS" in told(capsys, "cap", "set", uuid, code=2)
    assert "No command names it" in told(capsys, "explain", uuid)
    site.layout.operator_key.rename(site.layout.operator_key.with_suffix(".away"))
    assert "operator.key cannot be read" in told(capsys, "pause", "--yes", code=1)
    running.stop()


def test_a_node_that_has_not_reported_is_said_to_be_unknown(site: Site, capsys: Out) -> None:
    assert main(["pause", "--node", "no-such-node", "--yes", "--for", "1s"]) == 0
    assert "no-such-node has not reported lately" in capsys.readouterr().err
