"""The units keep their promises: least rights, and a second net below the capper."""

from __future__ import annotations

from pathlib import Path

import pytest

UNITS = Path(__file__).parents[3] / "compose" / "systemd"


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / name).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def test_whatever_ends_the_capper_everything_is_put_back() -> None:
    unit = settings("eo-capper.service")
    assert unit["ExecStopPost"] == ["/opt/energy-orchestrator/bin/eo restore --all --yes"]
    assert unit["Restart"] == ["always"]


def test_the_capper_has_the_two_rights_it_needs_and_no_network() -> None:
    unit = settings("eo-capper.service")
    assert unit["CapabilityBoundingSet"] == ["CAP_SYS_ADMIN CAP_CHOWN"]
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"] and unit["PrivateNetwork"] == ["true"]


def test_the_agent_has_no_right_at_all() -> None:
    unit = settings("eo-agent.service")
    assert unit["CapabilityBoundingSet"] == [""] and unit["User"] == ["eo-agent"]


@pytest.mark.parametrize("name", ["eo-agent.service", "eo-capper.service"])
def test_neither_can_gain_rights_or_write_elsewhere(name: str) -> None:
    unit = settings(name)
    assert unit["NoNewPrivileges"] == ["true"] and unit["ProtectSystem"] == ["strict"]
