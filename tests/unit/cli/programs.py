"""Stand-ins for programs that a machine may lack: small shell scripts in a folder that becomes the whole PATH."""

from __future__ import annotations

from pathlib import Path


def program(folder: Path, name: str, script: str) -> Path:
    """Writes an executable `name`; the script sees /bin and /usr/bin, whatever PATH the caller gives."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)
    return path


def java(folder: Path, version: str) -> Path:
    """A `java` that only knows its version."""
    return program(folder, "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")


def engine(folder: Path, name: str, *, daemon: bool = True, run: str = "exit 0") -> Path:
    """A container engine that keeps one container's state in a file and writes down how it was called."""
    state, calls = folder / "state", folder / "calls"
    answer = "exit 0" if daemon else "echo 'Cannot connect to the daemon' >&2; exit 1"
    return program(
        folder,
        name,
        f"""echo "$@" >> {calls}
case "$1" in
  ps) {answer} ;;
  run) echo true > {state}; {run} ;;
  inspect) cat {state} ;;
  stop|rm) echo false > {state} ;;
esac""",
    )
