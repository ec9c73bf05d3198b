"""`eo restore`: puts every limit and lock back to the value found before us, with everything else dead if need be.

A live capper is asked over its socket; without one the save files are used directly, through the actuator named there.
"""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.cli.base import DONE, FAILED, USAGE, EoError, confirm, emit, table, writing
from agents.cli.capper import actuators
from streams.contract.layout import Layout


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
    parser.add_argument("--node", help="only this node (default: the one that is here)")
    parser.add_argument("--all", action="store_true", help="every node with a save file or a capper on this machine")
    writing(parser)
    parser.epilog = "example: eo restore --all --yes"


def run(args: argparse.Namespace) -> int:
    layout = Layout.from_env()
    nodes = _nodes(args, layout)
    planned = [line for node in nodes for line in _restore(layout, node, dry_run=True)]
    if not planned:
        emit(args, [], "nothing to do: no limit and no lock of ours is in force")
        return DONE
    if not args.dry_run:
        confirm(args, f"Put back {len(planned)} values on {len({line.node for line in planned})} node(s)?")
    lines = planned if args.dry_run else [line for node in nodes for line in _restore(layout, node, dry_run=False)]
    emit(args, [asdict(line) for line in lines], lambda: _show(lines))
    return FAILED if any(line.state == "failed" for line in lines) else DONE


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
    here = sorted(path.parent.name for path in layout.capper.glob("*/lock"))
    if args.node:
        if args.node not in here:
            known = f"known are {', '.join(here[:8])}" if here else f"{layout.capper} holds no node"
            raise EoError(f"no capper ever ran here for node {args.node!r}; {known}", USAGE)
        return [args.node]
    if len(here) > 1 and not args.all:
        raise EoError(f"{len(here)} nodes have a capper's folder here; name one with --node or pass --all", USAGE)
    return here


def _restore(layout: Layout, node: str, *, dry_run: bool) -> list[Line]:
    from agents.capper.errors import CapperError
    from agents.capper.protocol import SOCKET_NAME

    folder = layout.capper / node
    try:
        if (live := _connect(folder / SOCKET_NAME)) is not None:
            with live:
                return _ask(live, node, dry_run=dry_run)
        return _offline(layout, folder, node, dry_run=dry_run)
    except CapperError as error:
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
    return "twin" if actuator.startswith("twin") else "nvml"
