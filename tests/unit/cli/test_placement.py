"""Who holds a GPU, from telemetry as it comes: foreign, odd and broken messages included."""

from __future__ import annotations

import pytest

from agents.cli.placement import Place, Placement, by_namespace, newest, read_one
from agents.gateway.placements import Placements
from streams.contract import codec
from streams.contract import records as r
from streams.errors import StreamsError


def message(node: str = "n", ts_ns: int = 5, *, gpu: r.GpuColumns | None = None, cluster: str = "c") -> bytes:
    return codec.encode(
        r.NodeTelemetry(
            cluster=cluster, node=node, boot_id="b", seq=1, ts_ns=ts_ns, source=("dcgm",), quality="measured", gpu=gpu
        )
    )


def test_names_stand_beside_their_gpu_and_nobody_is_null() -> None:
    gpu = r.GpuColumns(uuid=("A", "B"), namespace=("team-a", None), pod=("p-1", None))
    found = read_one(message(gpu=gpu), "c")
    assert found == Placement("n", 5, {"A": Place("team-a", "p-1"), "B": Place(None, None)})
    bare = read_one(message(gpu=r.GpuColumns(uuid=("A",))), "c")
    assert bare is not None and bare.gpus == {"A": Place(None, None)}
    assert read_one(message(), "c") == Placement("n", 5, {})


@pytest.mark.parametrize("value", [None, b"", b"{", b"\xff\xfe", b'{"cluster":"c"}', b"[]", b'{"cluster":7}'])
def test_what_does_not_decode_is_left_out(value: bytes | None) -> None:
    assert read_one(value, "c") is None


def test_another_clusters_and_columns_of_another_length_are_not_believed() -> None:
    assert read_one(message(cluster="other"), "c") is None
    odd = message(gpu=r.GpuColumns(uuid=("A", "B"))).replace(b'"uuid":["A","B"]', b'"uuid":["A","B"],"namespace":["x"]')
    found = read_one(odd, "c")
    assert found is not None and set(found.gpus.values()) == {Place(None, None)}


def test_the_newest_word_of_each_node_counts() -> None:
    old, new = Placement("n", 1, {"A": Place("x", None)}), Placement("n", 2, {"A": Place("y", None)})
    kept = newest([new, old, Placement("m", 1, {"B": Place("y", "p"), "C": Place("", None)})])
    assert kept["n"] is new
    assert by_namespace(kept.values()) == {"y": frozenset({"A", "B"})}


def test_a_broker_that_is_away_leaves_what_is_known_until_it_is_stale() -> None:
    now, looks = [0], [{"n": Placement("n", 0, {"A": Place("x", None)})}]

    def look() -> dict[str, Placement]:
        if not looks:
            raise StreamsError("the broker is away")
        return looks.pop()

    known = Placements(look, wall_ns=lambda: now[0], stale_s=30)
    known.take()
    known.take()
    assert known.problem == "the broker is away" and known.namespaces() == {"x": frozenset({"A"})}
    now[0] = 31 * 10**9
    assert known.namespaces() == {} and known.places() == {}
