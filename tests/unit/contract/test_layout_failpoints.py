"""Paths below one folder, and failpoints that do what their plan says."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams.contract import failpoints
from streams.contract.layout import Layout


def test_every_path_lies_in_the_data_folder(tmp_path: Path) -> None:
    layout = Layout.from_env({"EO_DATA_DIR": str(tmp_path)})
    names = [name for name in dir(Layout) if isinstance(getattr(Layout, name), property)]
    assert len(names) >= 10
    assert all(getattr(layout, name).is_relative_to(tmp_path) for name in names)


@pytest.mark.parametrize("env", [{}, {"EO_DATA_DIR": ""}])
def test_default_folder_is_in_the_working_directory(env: dict[str, str]) -> None:
    assert Layout.from_env(env).root == Path(".eo").absolute()


def test_failpoint_fires_at_the_asked_hit_only() -> None:
    failpoints.arm("archive.before_rename:raise:2")
    try:
        failpoints.hit("archive.before_rename")
        failpoints.hit("streams.after_poll")
        with pytest.raises(failpoints.FailpointRaised, match=r"archive\.before_rename"):
            failpoints.hit("archive.before_rename")
        failpoints.hit("archive.before_rename")
        assert failpoints.count("archive.before_rename") == 3
        assert failpoints.count("streams.after_poll") == 0
    finally:
        failpoints.arm("")


def test_a_misspelt_failpoint_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match=r"'archive\.befor_rename', which does not exist"):
        failpoints.arm("archive.befor_rename:kill")
