"""`eo restore`: puts every limit and lock back to the value found before us, with everything else dead if need be.

A live capper is asked over its socket; without one the save files are used directly, through the actuator named there.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from agents.cli.base import DONE, FAILED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.capper import actuators
from agents.cli.parser import name
from streams.contract.layout import Layout

NOTHING: Final = "nothing to do: no limit and no lock of ours is in force"


@dataclass(frozen=True, slots=True)
class Line:
    """One knob of one GPU, as shown; watts or MHz."""

    node: str
    uuid: str
    knob: str
    before: float | None
    after: float | None
    state: str
    problem: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--node", type=name, help="only this node (default: the one that is here)")
    parser.add_argument("--all", action="store_true", help="every node with a save file or a capper on this machine")
    writing(parser)
    parser.epilog = "example: eo restore --all --yes"


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    nodes = _nodes(args, layout)
    lines, failed = _each(layout, nodes, dry_run=True)
    if not lines:
        nothing = f"nothing was put back: {len(failed)} node(s) failed, see above" if failed else NOTHING
        emit(args, [], nothing)
        return FAILED if failed else DONE
    if not args.dry_run:
        confirm(args, f"Put back {len(lines)} values on {len({line.node for line in lines})} node(s)?")
        lines, late = _each(layout, [node for node in nodes if node not in failed], dry_run=False)
        failed |= late
    emit(args, [asdict(line) for line in lines], lambda: _show(lines))
    return FAILED if failed or any(line.state == "failed" for line in lines) else DONE


def _each(layout: Layout, nodes: Iterable[str], *, dry_run: bool) -> tuple[list[Line], set[str]]:
    """Every node's lines and the nodes that failed, told on stderr at once: none may keep the others capped."""
    lines: list[Line] = []
    failed: set[str] = set()
    for node in nodes:
        try:
            lines += _restore(layout, node, dry_run=dry_run)
        except EoError as error:
            print(f"eo restore: {error}", file=sys.stderr)
            failed.add(node)
    return lines, failed


def _show(lines: Sequence[Line]) -> str:
    rows = [
        (x.node, x.uuid, x.knob, f"{_value(x, x.before)} -> {_value(x, x.after)}", x.state, x.problem) for x in lines
    ]
    return table(rows, ("node", "gpu", "knob", "before -> after", "state", "problem"))


def _value(line: Line, value: float | None) -> str:
    if value is None:
        return "no lock" if line.knob == "sm_lock_mhz" and line.state != "failed" else "unknown"
    return f"{value:g}"


def _nodes(args: argparse.Namespace, layout: Layout) -> list[str]:
    """Which nodes to restore. Raises EoError(USAGE) when that is not clear."""
    here = _here(layout.capper)
    if args.node:
        if args.node not in here:
            known = f"known are {', '.join(here[:8])}" if here else f"{layout.capper} holds no node"
            raise EoError(f"no capper ever ran here for node {args.node!r}; {known}", USAGE)
        return [args.node]
    if len(here) > 1 and not args.all:
        raise EoError(f"{len(here)} nodes have a capper's folder here; name one with --node or pass --all", USAGE)
    return here


def _here(folder: Path) -> list[str]:
    """The nodes with a capper's folder. Raises EoError: a folder that cannot be listed is not an empty one."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if _is_node(Path(entry.path)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise EoError(
            f"{folder} cannot be listed ({error.strerror}), so nobody knows what is in force; "
            "check EO_DATA_DIR and the rights of this user"
        ) from error


def _is_node(folder: Path) -> bool:
    from agents.capper import folder_lock, savefile

    try:
        # The save file is the promise; the lock says only that a capper ran here.
        return any((folder / name).exists() for name in (savefile.FILE_NAME, folder_lock.FILE_NAME))
    except OSError:
        return True  # it may hold a promise: reading it will tell why it cannot be read


def _restore(layout: Layout, node: str, *, dry_run: bool) -> list[Line]:
    from agents.capper.errors import CapperError
    from agents.capper.protocol import SOCKET_NAME

    folder = layout.capper / node
    try:
        if (live := _connect(folder / SOCKET_NAME)) is not None:
            with live:
                return _ask(live, node, dry_run=dry_run)
        return _offline(layout, folder, node, dry_run=dry_run)
    except (CapperError, EoError, OSError) as error:
        raise EoError(f"node {node}: {error}") from error


# -- with a live capper ------------------------------------------------------------------------------------------------


def _connect(path: Path) -> socket.socket | None:
    """A connection to a live capper, None when there is none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, PermissionError):
        # A dead capper leaves its socket, perhaps the agent's own: the folder's lock says who lives, not this file.
        connection.close()
        return None
    except OSError as error:
        connection.close()
        raise EoError(f"{path} cannot be reached ({error.strerror or error}); see the capper's log") from error
    return connection


def _ask(connection: socket.socket, node: str, *, dry_run: bool) -> list[Line]:
    before = _held(_request(connection, {"op": "status"})["status"], node)
    if dry_run or not before:
        return before
    ack = _request(connection, {"op": "restore", "reason": "asked for by eo restore"})["ack"]["gpu"]
    now = dict(zip(ack["uuid"], zip(ack["status"], ack["reason"], strict=True), strict=True))
    return [_after(line, *now.get(line.uuid, ("failed", "the capper did not speak of it"))) for line in before]


def _held(status: dict[str, Any], node: str) -> list[Line]:
    return [
        Line(node, uuid, knob, gpu["held"][knob], previous, "planned")
        for uuid, gpu in status["gpus"].items()
        for knob, previous in gpu["previous"].items()
    ]


def _after(line: Line, status: str, reason: str) -> Line:
    if status == "restored":
        return Line(line.node, line.uuid, line.knob, line.before, line.after, "restored")
    return Line(line.node, line.uuid, line.knob, line.before, None, "failed", reason)


def _request(connection: socket.socket, request: dict[str, str]) -> dict[str, Any]:
    """One question, one answer. Raises EoError when the capper is silent or says no."""
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        received = bytearray()
        while not received.endswith(b"\n"):
            chunk = connection.recv(65_536)
            if not chunk:
                raise EoError("the capper hung up; see its log, then run this again")
            received += chunk
    except TimeoutError:
        raise EoError(
            "the capper does not answer within 10 s; stop it (it is one process), then run this again"
        ) from None
    answer: dict[str, Any] = json.loads(received)
    if not answer["ok"]:
        raise EoError(f"the capper refuses: {answer['error']}")
    return answer


# -- without one -------------------------------------------------------------------------------------------------------


def _offline(layout: Layout, folder: Path, node: str, *, dry_run: bool) -> list[Line]:
    from agents.capper import offline, savefile

    saved = savefile.load(folder)
    if saved is None or saved.empty:
        return []
    power, clock = actuators(_kind(saved.power_actuator or saved.clock_actuator), layout, node)
    rows = offline.restore(folder, power, clock, dry_run=dry_run)
    return [
        Line(node, row.uuid, row.knob, row.before, row.previous if dry_run else row.after, row.state, row.problem)
        for row in rows
    ]


def _kind(actuator: str) -> str:
    """The kind of actuators that wrote a save file, from the name it keeps."""
    if actuator.startswith("dry_run"):
        return "dry-run"
    return next((kind for kind in ("twin", "redfish") if actuator.startswith(kind)), "nvml")
