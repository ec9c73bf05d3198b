"""Whatever a BMC's documents hold: no exception, sound rows of unique names, parents that never form a ring."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest

from agents.node.bmc.documents import ROOT
from agents.node.bmc.errors import BmcError
from agents.node.bmc.extract import snapshot
from agents.node.bmc.walk import Walk
from agents.node.sources import sound
from agents.node.sources.base import Reading
from streams.contract import codec
from streams.contract.records import NodeTelemetry
from tests.fakes.bmc.model import Json, Machine, Recorded

DMTF = Path(__file__).parents[1] / "data/redfish/dmtf_public_rackmount1"
ODD: list[Any] = [
    *(None, 0, -1, 1e308, 10**30, "", "x", "\ud800", "NaN", True, [], {}, [None], [{}], -0.0, "9" * 500, 2**63),
    *({"Reading": "x"}, {"@odata.id": 5}, {"@odata.id": ROOT}, {"DataSourceUri": []}, {"Reading": 10**40}, "Absent"),
    *(float("nan"), float("inf"), f"{ROOT}/Chassis", {"State": 5}, [[[]]]),
]


def mutated(value: Any, rng: random.Random, share: float) -> Any:
    """The same with some values, and some names, replaced by others."""
    if rng.random() < share:
        return rng.choice(ODD)
    if isinstance(value, dict):
        names = ("Members", "Id", "Name", "Reading", "")
        return {
            (rng.choice(names) if rng.random() < share else name): mutated(item, rng, share)
            for name, item in value.items()
        }
    return [mutated(item, rng, share) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("share", [0.003, 0.02, 0.1])
def test_any_documents_give_sound_rows(share: float) -> None:
    trees = [Recorded(folder=DMTF).documents(), Machine().documents()]
    for seed in range(60):
        rng = random.Random(seed)
        docs: dict[str, Json] = mutated(rng.choice(trees), rng, share) or {}
        check(docs if isinstance(docs, dict) else {})


def check(docs: dict[str, Json]) -> None:
    async def get(uri: str) -> Json:
        if not isinstance(doc := docs.get(uri), dict):
            raise BmcError("not there")
        return doc

    try:
        found = snapshot(asyncio.run(Walk(get, workers=2).run(30)))
    except BmcError:
        return  # no service root
    domains, sensors = found.domain_columns(), found.sensor_columns()
    parts: dict[str, Any] = {"domains": domains, "sensors": sensors}
    assert sound.problem(Reading(source="redfish", ts_ns=1, quality="measured", **parts)) is None
    record = NodeTelemetry(
        cluster="c", node="n", boot_id="b", seq=1, ts_ns=1, source=("redfish",), quality="measured", **parts
    )
    assert codec.decode(NodeTelemetry, codec.encode(record)).cluster == "c"
    json.dumps(found.missing).encode()
    if domains is None or domains.parent is None:
        return
    parent = dict(zip(domains.name, domains.parent, strict=True))
    assert len(parent) == len(domains.name)
    for name in domains.name:
        seen, at = set[str](), parent[name]
        while at is not None:
            assert at not in seen, f"{name} lies in a ring"
            seen.add(at)
            at = parent[at]
