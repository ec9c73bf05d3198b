"""The simulated devices outlive the process that drives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.fleet import registers as fleet_registers


def test_values_written_by_one_opening_are_read_by_the_next(tmp_path: Path) -> None:
    first = fleet_registers.create(tmp_path, cluster="c", nodes=2, gpus_per_node=4)
    first.limit_w[3] = 321.0
    first.sm_lock_mhz[5] = 1200.0
    again = fleet_registers.create(tmp_path, cluster="c", nodes=2, gpus_per_node=4)
    assert again.limit_w[3] == 321.0
    assert set(again.changed()) == {again.uuids[3], again.uuids[5]}
    assert again.node_name(again.uuids[5]) == "sim-002"


def test_another_shape_begins_anew(tmp_path: Path) -> None:
    fleet_registers.create(tmp_path, cluster="c", nodes=2, gpus_per_node=4).limit_w[0] = 300.0
    other = fleet_registers.create(tmp_path, cluster="c", nodes=3, gpus_per_node=4)
    assert other.changed() == ()
    assert len(other.uuids) == len(set(other.uuids)) == 12


def test_absent_and_cut_files_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="start one with `eo fleet`"):
        fleet_registers.open_registers(tmp_path)
    fleet_registers.create(tmp_path, cluster="c", nodes=1, gpus_per_node=4)
    (tmp_path / "registers.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes where 416 are expected"):
        fleet_registers.open_registers(tmp_path)
