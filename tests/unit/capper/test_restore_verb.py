"""`eo restore` against cappers that do not behave, and on folders that are not as they should be."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.capper import savefile
from agents.cli import main, restore
from agents.cli.base import EoError
from tests.fakes.actuators import FakeActuator


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    with ours, theirs:
        yield ours, theirs


def test_a_silent_capper_is_not_waited_for_without_end(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(EoError, match="does not answer within 10 s; stop it"):
        restore._request(pair[0], {"op": "status"})


def test_a_capper_that_hangs_up_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(EoError, match="the capper hung up"):
        restore._request(pair[0], {"op": "status"})


def test_a_capper_that_says_no_is_quoted(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b'{"ok":false,"error":"user 5 may not talk to this capper"}\n')
    with pytest.raises(EoError, match="the capper refuses: user 5 may not talk"):
        restore._request(pair[0], {"op": "status"})


class TestFolders:
    """No capper lives; each node's GPU stands at 500 W where 700 W was found."""

    @pytest.fixture
    def data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("EO_DATA_DIR", str(tmp_path))
        return tmp_path

    @pytest.fixture
    def power(self, monkeypatch: pytest.MonkeyPatch) -> FakeActuator:
        """The devices of every node."""
        power = FakeActuator("power_limit_w", ("GPU-n1", "GPU-n2", "GPU-n3"), found=500.0)
        monkeypatch.setattr(restore, "actuators", lambda kind, layout, node: (power, None))
        return power

    def promise(self, data: Path, node: str) -> Path:
        """A save file without the lock beside it."""
        folder = data / "capper" / node
        folder.mkdir(parents=True)
        found = savefile.SavedKnob(previous=700.0, owner="device default", saved_at_ns=1)
        saved = savefile.Saved(
            cluster="c1", node=node, capper_id="x", power_actuator="fake_power", power={f"GPU-{node}": found}
        )
        savefile.write(folder, saved)
        return folder / savefile.FILE_NAME

    def test_one_corrupt_save_file_leaves_no_other_node_capped(
        self, data: Path, power: FakeActuator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for node in ("n1", "n2", "n3"):
            self.promise(data, node)
        (data / "capper" / "n1" / savefile.FILE_NAME).write_text("{}")
        (data / "capper" / "n2" / savefile.FILE_NAME).write_text("torn")
        assert main.main(["restore", "--all", "--yes", "--json"]) == 1
        told = capsys.readouterr()
        assert [(line["node"], line["after"], line["state"]) for line in json.loads(told.out)] == [
            ("n3", 700.0, "restored")
        ]
        first, second = told.err.splitlines()
        assert first.startswith("eo restore: node n1: ") and "save.json is not a save file" in first
        assert second.startswith("eo restore: node n2: ")
        assert power.values == {"GPU-n1": 500.0, "GPU-n2": 500.0, "GPU-n3": 700.0}
        assert main.main(["restore", "--all", "--yes"]) == 1
        assert "nothing was put back: 2 node(s) failed, see above" in capsys.readouterr().out

    def test_a_node_that_fails_only_when_it_is_set_stops_no_other(
        self, data: Path, power: FakeActuator, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for node in ("n1", "n2"):
            self.promise(data, node)
        (data / "capper" / "n1" / "lock").mkdir()  # a lock that cannot be taken
        assert main.main(["restore", "--all", "--yes"]) == 1
        assert "eo restore: node n1: " in capsys.readouterr().err
        assert (power.values["GPU-n1"], power.values["GPU-n2"]) == (500.0, 700.0)

    def test_a_save_file_without_a_lock_is_a_promise_too(self, data: Path, power: FakeActuator) -> None:
        path = self.promise(data, "n1")
        assert main.main(["restore", "--yes"]) == 0
        assert power.values["GPU-n1"] == 700.0 and not path.exists()

    def test_a_data_folder_that_is_a_file_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("EO_DATA_DIR", str(tmp_path / "file"))
        assert main.main(["restore", "--all", "--yes"]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err == (
            f"eo restore: {tmp_path / 'file' / 'capper'} cannot be listed (Not a directory), so nobody knows what is "
            "in force; check EO_DATA_DIR and the rights of this user\n"
        )

    def test_a_folder_that_may_not_be_listed_is_told(
        self, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def denied(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(os, "scandir", denied)
        assert main.main(["restore", "--all", "--yes"]) == 1
        assert "cannot be listed (Permission denied)" in capsys.readouterr().err

    def test_a_node_folder_that_may_not_be_looked_into_is_told_and_stops_no_other(
        self, data: Path, power: FakeActuator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for node in ("n1", "n2"):
            self.promise(data, node)
        closed = data / "capper" / "n1"
        plain_exists, plain_read = Path.exists, Path.read_bytes

        def exists(path: Path) -> bool:
            if path.parent == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return plain_exists(path)

        def read_bytes(path: Path) -> bytes:
            if path.parent == closed:
                raise PermissionError(13, "Permission denied", str(path))
            return plain_read(path)

        monkeypatch.setattr(Path, "exists", exists)
        monkeypatch.setattr(Path, "read_bytes", read_bytes)
        assert main.main(["restore", "--all", "--yes"]) == 1
        assert "eo restore: node n1: " in capsys.readouterr().err
        assert power.values["GPU-n2"] == 700.0

    def test_a_machine_without_a_folder_has_nothing_to_do(self, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["restore", "--all", "--yes"]) == 0
        assert capsys.readouterr().out == restore.NOTHING + "\n"
