"""`eo config`: which settings are in force and where each comes from; the check of all; the signing keys."""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from agents.cli.base import DONE, FAILED, EoError, emit, table
from agents.cli.known_names import known_names, misspelt, refuse_misspelt
from streams.contract.layout import Layout

__all__ = ["add_arguments", "ensure_keys", "known_names", "refuse_misspelt", "run"]

EXAMPLE = "examples:\n  eo config show\n  eo config check --json\n  eo config keys"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument("what", choices=("show", "check", "keys"), help="show settings, check them, make signing keys")
    parser.add_argument("--file", type=Path, help="TOML file of the node agent and the capper")


def run(args: argparse.Namespace) -> int:
    actions = {"show": _show, "check": _check, "keys": _keys}
    return actions[args.what](args)


def _show(args: argparse.Namespace) -> int:
    from agents.cli.settings_view import settings

    rows = settings(os.environ, args.file)
    shown = [(row.name, row.value, row.origin, row.process) for row in rows]
    emit(
        args, [dataclasses.asdict(row) for row in rows], lambda: table(shown, ("setting", "value", "origin", "process"))
    )
    return DONE


def _check(args: argparse.Namespace) -> int:
    """Every problem at once, so that nobody mends one setting per run."""
    problems = check(Layout.from_env(), os.environ, args.file)
    emit(
        args, {"ok": not problems, "problems": problems}, "\n".join(problems) if problems else "All settings are good."
    )
    return FAILED if problems else DONE


def check(layout: Layout, env: Mapping[str, str], file: Path | None = None) -> list[str]:
    """What is wrong with the settings, one sentence each; empty when nothing is. Touches no network."""
    from agents.cli.brokers.lifecycle import external
    from agents.cli.settings_view import problems

    found = [
        f"{name} is no setting{f', did you mean {near}?' if near else '.'} Correct or unset it."
        for name, near in misspelt(env)
    ]
    try:
        external(env)
    except EoError as error:
        found.append(str(error))
    return [*found, *problems(env, file), *key_problems(layout)]


def key_problems(layout: Layout) -> list[str]:
    """Keys that cannot be used, or that others may read. Missing keys are no problem before the first start."""
    from streams.contract.signing import KeyRing, Signer

    found = []
    for path, load in (
        (layout.actuation_key, Signer.load),
        (layout.operator_key, Signer.load),
        (layout.keyring, KeyRing.load),
    ):
        try:
            load(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            found.append(f"{error}.")
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if path != layout.keyring and mode & 0o077:
            found.append(f"{path} has mode {mode:04o}, others may read it; `chmod 600 {path}`.")
    return found


def _keys(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    made = ensure_keys(layout)
    value = {"made": [str(path) for path in made], "keyring": str(layout.keyring)}
    text = "\n".join(f"made {path}" for path in made) or f"The keys are there already: {layout.keys}"
    emit(args, value, text)
    return DONE


def ensure_keys(layout: Layout) -> list[Path]:
    """Makes the actuation and the operator key and lists both in the key ring; returns the files that it wrote.

    Idempotent: a key that is there is never replaced, since nodes trust it already. Raises EoError for a damaged key.
    """
    from streams.contract.signing import KeyRing

    try:
        layout.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (layout.keys / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two starts at once must end with one key
            written = _fill(layout)
        KeyRing.load(layout.keyring)
    except ValueError as error:
        raise EoError(f"{error}; put the file back from a copy, or move it away and run `eo config keys`.") from error
    except OSError as error:
        raise EoError(
            f"the key folder {layout.keys} cannot be used ({error.strerror}); give this user the right, or set "
            "EO_DATA_DIR to another folder."
        ) from error
    return written


def _fill(layout: Layout) -> list[Path]:
    from streams.contract.signing import Signer, generate

    written, lines = [], []
    for path in (layout.actuation_key, layout.operator_key):
        if path.exists() and path.stat().st_size == 0:
            path.unlink()  # a crash between making and filling the file; it holds nothing to keep
        if path.exists():
            signer = Signer.load(path)
        else:
            signer = generate(f"{path.stem}-{os.urandom(4).hex()}", path)
            written.append(path)
        lines.append(signer.public_line())
    there = layout.keyring.read_text().splitlines() if layout.keyring.exists() else []
    if missing := [line for line in lines if line not in there]:
        _write(layout.keyring, "".join(f"{line}\n" for line in [*there, *missing]))
        written.append(layout.keyring)
    return written


def _write(path: Path, text: str) -> None:
    """The old file or the new one, never half of it."""
    fresh = path.with_suffix(".tmp")
    with fresh.open("w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(path)
