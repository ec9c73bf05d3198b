"""Several sources in one record: names stay unique, GPUs match by UUID, a faulty reading harms only its own source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agents.node import merge
from agents.node.agent import NodeAgent
from agents.node.sources.base import Reading
from agents.node.spool import Spool
from streams.contract import codec
from streams.contract.records import DomainColumns, NodeTelemetry, SensorColumns
from tests.fakes.sources import UUIDS, FakeSource, gpu_columns


def domains(*names: str, source: str = "redfish", **columns: Any) -> DomainColumns:
    size = len(names)
    given: dict[str, Any] = {"kind": ("other",) * size, "quality": ("measured",) * size, **columns}
    return DomainColumns(name=names, source=(source,) * size, **given)


def sensors(*names: str, source: str = "redfish") -> SensorColumns:
    size = len(names)
    return SensorColumns(
        name=names, kind=("fan",) * size, unit=("rpm",) * size, source=(source,) * size, value=(1.0,) * size
    )


def reading(**parts: Any) -> Reading:
    return Reading(source="x", ts_ns=1, **{"quality": "measured", **parts})


def test_domains_stand_side_by_side_with_unique_names_and_their_own_parents() -> None:
    first = domains("chassis", "psu-0", parent=(None, "chassis"), power_w=(1950.0, 900.0))
    second = domains("chassis", "psu-0", "fan", source="ipmi", parent=(None, "chassis", "elsewhere"))
    found = merge.domains([reading(domains=first), reading(), reading(domains=second)])
    assert found is not None
    assert found.name == ("chassis", "psu-0", "ipmi:chassis", "ipmi:psu-0", "fan")
    assert found.parent == (None, "chassis", None, "ipmi:chassis", "elsewhere")
    assert found.power_w == (1950.0, 900.0, None, None, None)
    assert found.limit_w is None


def test_a_name_that_one_source_gives_twice_is_numbered() -> None:
    found = merge.domains([reading(domains=domains("psu", "psu", "psu", parent=(None, "psu", None)))])
    assert found is not None
    assert found.name == ("psu", "redfish:psu", "redfish:psu#2")
    assert found.parent == (None, "psu", None)
    named = merge.sensors([reading(sensors=sensors("fan", "fan")), reading(sensors=sensors("fan", source="ipmi"))])
    assert named is not None
    assert named.name == ("fan", "redfish:fan", "ipmi:fan")
    assert merge.domains([reading()]) is None
    assert merge.sensors([]) is None


def test_gpus_of_two_sources_match_by_uuid_in_any_order() -> None:
    first = gpu_columns(3, temp_c=None, state=("ok", "lost", "ok"))
    turned = gpu_columns(3, temp_c=(1.0, 2.0, 3.0), pod=("a", None, "c"))
    part = gpu_columns(1, mem_mhz=(9,))
    other = gpu_columns(1, mem_temp_c=(5.0,))
    import msgspec

    turned = msgspec.structs.replace(turned, uuid=(UUIDS[2], UUIDS[0], UUIDS[1]))
    other = msgspec.structs.replace(other, uuid=("GPU-of-another-host",))
    found = merge.gpus([reading(gpu=g) for g in (first, turned, part, other)])
    assert found is not None
    assert (found.uuid, found.state) == (UUIDS[:3], ("ok", "lost", "ok"))
    assert (found.temp_c, found.pod, found.mem_mhz) == ((2.0, 3.0, 1.0), (None, "c", "a"), (9, None, None))
    assert found.mem_temp_c is None


def test_an_estimated_domain_does_not_make_measured_gpus_doubtful() -> None:
    gpu, cpu = reading(gpu=gpu_columns(1)), reading(domains=domains("cpu"), quality="estimated")
    assert merge.quality([gpu, cpu]) == "measured"
    assert merge.quality([cpu]) == "estimated"


@pytest.mark.parametrize(
    "parts",
    [
        {"gpu": gpu_columns(2, temp_c=(1.0,))},
        {"gpu": gpu_columns(2, energy_mj=(2**64, 1))},
        {"domains": domains("a", power_w=(1.0, 2.0))},
        {"sensors": SensorColumns(name=("a",), kind=(), unit=("c",), source=("s",), value=(1.0,))},
    ],
)
def test_a_faulty_reading_harms_only_its_own_source(
    parts: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(tmp_path / "telemetry", max_bytes=1 << 20, segment_bytes=1 << 16)
    bad, good = FakeSource("bad", **parts), FakeSource("good", domains=domains("chassis"), sensors=sensors("fan"))
    agent = NodeAgent("c", "n1", [bad, good], spool)
    agent.sample(1)
    record = codec.decode(NodeTelemetry, spool.read(0, 9)[0].value)
    assert (record.source, agent.failures) == (("good",), {"bad": 1, "good": 0})
    assert record.domains is not None
    assert record.sensors is not None
    assert "source bad fails (SourceError: the reading's" in caplog.text
    spool.close()


def test_what_is_missing_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = Spool(tmp_path / "telemetry", max_bytes=1 << 20, segment_bytes=1 << 16)
    source = FakeSource("s", gpu=gpu_columns(1), missing=(("gpus.energy_mj", "not published"),))
    agent = NodeAgent("c", "n1", [source], spool)
    with caplog.at_level("INFO"):
        for n in range(3):
            agent.sample(n)
        source.parts["missing"] = (*source.parts["missing"], ("gpus.temp_c", "blank"))
        agent.sample(4)
        source.parts["missing"] = ()
        agent.sample(5)
        source.parts["missing"] = (("gpus.energy_mj", "not published"),)
        agent.sample(6)  # it comes back: said before
    told = [r.message for r in caplog.records]
    assert told == [
        "node n1: source s, gpus.energy_mj: not published",
        "node n1: source s, gpus.temp_c: blank",
    ]
    spool.close()
