"""A Kafka store is formatted once; a half-formatted one is healed when it holds nothing, and explained when it does."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.cli.base import EoError
from agents.cli.brokers import store

GOOD = "version=1\nnode.id=1\ncluster.id=abc\n"


def test_no_store_wants_formatting(tmp_path: Path) -> None:
    assert store.heal(tmp_path / "store")


def test_a_formatted_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "meta.properties").write_text(GOOD)
    assert not store.heal(tmp_path)


@pytest.mark.parametrize("meta", [None, "", "version=1\nnode."])
def test_a_half_formatted_store_without_records_is_removed(tmp_path: Path, meta: str | None) -> None:
    half = tmp_path / "store"
    (half / "__cluster_metadata-0").mkdir(parents=True)
    if meta is not None:
        (half / "meta.properties").write_text(meta)
    assert store.heal(half)
    assert not half.exists()


def test_a_store_with_records_but_no_meta_is_kept_and_explained(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"energy.telemetry.node.v1-{number}").mkdir()
    with pytest.raises(EoError) as told:
        store.heal(tmp_path)
    assert str(told.value) == (
        f"the store {tmp_path} holds 3 topic partitions but no readable meta.properties, so Kafka would refuse it; put "
        "that file back from a copy, or move the folder away to start with an empty store."
    )
    assert len(store.partitions(tmp_path)) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="asks the lock's owner in Linux's form")
def test_a_store_that_another_process_holds_is_named_with_its_pid(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.touch()
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, 2); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        assert store.locked_by(tmp_path) == holder.pid
        with pytest.raises(EoError, match=rf"is in use by another Kafka process \(pid {holder.pid}\)"):
            store.heal(tmp_path)
        holder.communicate("")
    assert store.locked_by(tmp_path) is None


def test_the_lock_of_a_dead_process_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "meta.properties").write_text(GOOD)
    with (tmp_path / ".lock").open("r+") as mine:
        fcntl.lockf(mine, fcntl.LOCK_EX)  # one's own lock is no other's
        assert store.locked_by(tmp_path) is None
    assert os.access(tmp_path, os.W_OK)
    assert not store.heal(tmp_path)
