"""docs/node-agent.md names every field that a source can give and every setting."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

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
