"""The three generic names belong to this checkout, every folder is a package, the light processes stay light."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("agents", "streams", "models")
HEAVY = ("faust", "river", "sklearn", "numba", "fastapi", "numpy", "pyarrow", "duckdb", "pandas", "scipy")


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves_to_this_checkout(name: str) -> None:
    package = importlib.import_module(name)
    assert package.__file__ == str(ROOT / name / "__init__.py")
    assert (ROOT / name / "py.typed").exists()


def test_no_other_distribution_ships_a_file_below_our_names() -> None:
    strangers = {
        f"{dist.metadata['Name']}: {file}"
        for dist in distributions()
        if dist.metadata["Name"] != "energy-orchestrator"
        for file in dist.files or ()
        if file.parts[0] in NAMES
    }
    assert strangers == set(), "these hide our packages: install in a virtual environment of its own"


@pytest.mark.parametrize("name", [*NAMES, "tests"])
def test_every_folder_with_modules_is_a_package(name: str) -> None:
    folders = {path.parent for path in (ROOT / name).rglob("*.py")}
    assert folders, f"{name}/ holds no module"
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("name", ["sql", "compose"])
def test_data_folders_are_no_packages(name: str) -> None:
    assert not (ROOT / name / "__init__.py").exists()


@pytest.mark.parametrize(
    "module", ["agents.node.agent", "agents.capper.core", "agents.cli.main", "streams.contract.codec"]
)
def test_light_processes_import_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert set(HEAVY) & set(told.stdout.split()) == set()


def test_help_imports_no_verb() -> None:
    code = "import sys; from agents.cli.main import build_parser; build_parser().format_help(); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name for name in told.stdout.split() if name.startswith(("agents.", "streams", "msgspec", "confluent"))}
    assert loaded == {"agents.cli", "agents.cli.base", "agents.cli.main", "agents.cli.parser"}
