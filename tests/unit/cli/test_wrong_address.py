"""What a person sees when nothing listens at the broker's address: one sentence, nothing of the client's own log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NOBODY = "127.0.0.1:1"
PLACES = ("explain", "GPU-x"), ("status",)


def eo(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    env = {"KAFKA_BOOTSTRAP": NOBODY, "EO_DATA_DIR": str(folder), "PATH": "/usr/bin:/bin", "HOME": str(folder)}
    command = [sys.executable, "-c", "from agents.cli.main import entry; entry()", *argv]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("argv", PLACES)
def test_nothing_listens_there(tmp_path: Path, argv: tuple[str, ...]) -> None:
    done = eo(tmp_path, *argv)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"eo {argv[0]}: the broker at {NOBODY} does not answer as it should (")
    assert line.endswith("`eo doctor kafka` says why.")


@pytest.mark.parametrize("watts", ["-5", "0", "nan", "1e400", "450000"])
def test_watts_that_cannot_be_meant_are_refused_before_anybody_is_asked(tmp_path: Path, watts: str) -> None:
    done = eo(tmp_path, "cap", "set", "GPU-x", watts, "--yes")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"eo cap: {float(watts):g} W is outside 0 to 2000 W; give watts, not milliwatts.\n"
