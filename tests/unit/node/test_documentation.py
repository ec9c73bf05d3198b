"""docs/node-agent.md names every field that a source can give, every setting and every metric."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from agents.node import exporter
from agents.node.settings import NodeSettings
from agents.node.sources import nvml_fields, registry
from streams.contract.records import GpuColumns, HostReading

DOCS = Path(__file__).parents[3] / "docs"
TEXT = (DOCS / "node-agent.md").read_text()


def test_every_field_source_and_capability_is_documented() -> None:
    names = {*GpuColumns.__struct_fields__, *HostReading.__struct_fields__} - {"cgroup"}
    assert {name for name in names if f"`{name}`" not in TEXT} == set()
    others = (DOCS / "sources/README.md").read_text()
    named = (*registry.SOURCES, "twin")
    assert {name for name in named if f"### {name}" not in TEXT and f"| `{name}` |" not in others} == set()
    assert {word for word, _ in nvml_fields.CAPABILITY if f"`{word}`" not in TEXT} == set()


def test_every_setting_is_documented() -> None:
    names = {field.name for field in fields(NodeSettings)} - {"config"}
    assert {name for name in names if f"`{name}`" not in TEXT} == set()
    assert "`EO_NODE_CONFIG`" in TEXT


def test_every_metric_of_ours_is_documented() -> None:
    source = Path(exporter.__file__).read_text()
    counters = {"eo_samples", "eo_published", "eo_spool_lost", "eo_agent_cpu_seconds", "eo_commands_refused"}
    names = {*(f"{name}_total" for name in counters), "eo_source_failures_total", "eo_gpu_ok", "eo_gpu_sm_lock_mhz"}
    names |= {"eo_spool_depth", "eo_spool_bytes", "eo_sample_age_seconds", "eo_lease_remaining_seconds"}
    found = {word for word in source.replace("(", '"').split('"') if word.startswith("eo_") and word.isascii()}
    assert found == {name.removesuffix("_total") for name in names}
    assert {name for name in names if f"`{name}`" not in TEXT} == set()
