"""`eo demo fault`: starts a named fault in the simulated fleet of this data folder, ends it, lists them.

It writes the fleet's own file and nothing else. Without a living fleet it refuses; a real node reads no such file.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass
from typing import Any, Final

from agents.cli.base import DONE, REFUSED, USAGE, EoError, emit, table
from agents.fleet.faults import FAULTS, FaultFile, Wanted, known
from streams.contract.layout import Layout

_SPEC: Final = re.compile(r"([^@+]+)(?:@(\d{1,6}(?:\.\d+)?)s?)?(?:\+(\d{1,6}(?:\.\d+)?)s?)?")
NS: Final = 1e9


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of `--fault`: so long after the first live row, for so long (0 = until the end)."""

    name: str
    after_s: float = 0.0
    for_s: float = 0.0


def parse(text: str) -> Planned:
    """NAME[@AFTER_S][+FOR_S]; raises EoError(USAGE)."""
    found = _SPEC.fullmatch(text.strip())
    if found is None:
        raise EoError(f"--fault {text!r} is not NAME[@AFTER_S][+FOR_S]; write for example hungry-load@20+30", USAGE)
    name, after, lasts = found.groups()
    _name(name)
    if lasts is not None and float(lasts) <= 0.0:
        raise EoError(f"--fault {text!r} lasts 0 s; give seconds above 0, or leave +FOR_S out", USAGE)
    return Planned(name, float(after or 0.0), float(lasts or 0.0))


def _name(name: str) -> None:
    try:
        known(name)
    except ValueError as error:
        raise EoError(f"{error}.", USAGE) from error


def schedule(layout: Layout, planned: list[Planned], now_ns: int) -> None:
    """Asks the fleet for them, counted from now."""
    wanted = []
    for one in planned:
        start_ns = now_ns + int(one.after_s * NS)
        wanted.append(
            Wanted(name=one.name, start_ns=start_ns, end_ns=start_ns + int(one.for_s * NS) if one.for_s else 0)
        )
    if wanted:
        FaultFile(layout.fleet).add(wanted)


def run(args: argparse.Namespace) -> int:
    """`eo demo fault NAME ...`, `eo demo fault [NAME ...] --clear`, `eo demo faults`."""
    layout, names = Layout.from_env(), args.what[1:]
    for name in names:
        _name(name)
    if args.what[0] == "faults" or not (names or args.clear):
        return _list(args, layout)
    _living(layout)
    try:
        return _clear(args, layout, names) if args.clear else _start(args, layout, names)
    except ValueError as error:
        raise EoError(f"{error}.") from error


def _living(layout: Layout) -> None:
    """Only a simulated fleet that runs in this folder can be given a fault."""
    from agents.cli.processes import alive, read_json

    pid = (read_json(layout.run / "fleet.json") or {}).get("pid")
    if not isinstance(pid, int) or not alive(pid):
        raise EoError(
            f"no simulated fleet runs in {layout.root}; start one with `eo demo`, or set EO_DATA_DIR to its folder.",
            REFUSED,
        )


def _start(args: argparse.Namespace, layout: Layout, names: list[str]) -> int:
    _nodes(args, layout)
    now_ns = time.time_ns()
    end_ns = now_ns + args.duration_s * 10**9 if args.duration_s else 0
    wanted = [Wanted(name=name, start_ns=now_ns, end_ns=end_ns, nodes=tuple(args.node)) for name in names]
    FaultFile(layout.fleet).add(wanted)
    lines = [f"SIMULATED fault {name}: {FAULTS[name].what}; alert: {FAULTS[name].alert}" for name in names]
    until = f"It ends in {args.duration_s} s." if end_ns else f"End it: eo demo fault {' '.join(names)} --clear"
    emit(args, [_value(one, now_ns) for one in wanted], "\n".join([*lines, until]))
    return DONE


def _nodes(args: argparse.Namespace, layout: Layout) -> None:
    from agents.fleet.registers import open_registers

    nodes = open_registers(layout.fleet).nodes
    strange = sorted(set(args.node) - set(nodes))
    if strange:
        raise EoError(f"{strange[0]!r} is no node of this fleet; it has {nodes[0]} to {nodes[-1]}.", USAGE)


def _clear(args: argparse.Namespace, layout: Layout, names: list[str]) -> int:
    now_ns = time.time_ns()
    ended = FaultFile(layout.fleet).clear(names, now_ns)
    told = ", ".join(dict.fromkeys(one.name for one in ended))
    emit(args, {"ended": [one.name for one in ended]}, f"Ended: {told}." if ended else "No fault was on.")
    return DONE


def _list(args: argparse.Namespace, layout: Layout) -> int:
    now_ns = time.time_ns()
    try:
        wanted = FaultFile(layout.fleet).read()
    except ValueError as error:
        raise EoError(f"{error}.") from error
    values = []
    for fault in FAULTS.values():
        mine = [_value(one, now_ns)["state"] for one in wanted if one.name == fault.name]
        state = next((word for word in ("on", "to come") if word in mine), "-")
        values.append({"fault": fault.name, "alert": fault.alert, "state": state, "what": fault.what})
    emit(args, values, lambda: table([list(v.values()) for v in values], ("fault", "alert", "state", "what")))
    return DONE


def _value(one: Wanted, now_ns: int) -> dict[str, Any]:
    state = "on" if one.active(now_ns) else "over" if one.over(now_ns) else "to come"
    return {
        "name": one.name,
        "alert": FAULTS[one.name].alert,
        "state": state,
        "start_ns": one.start_ns,
        "end_ns": one.end_ns or None,
        "nodes": list(one.nodes),
        "simulated": True,
    }
