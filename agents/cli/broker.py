"""`eo broker up|status|down`: the Kafka broker of this data folder."""

from __future__ import annotations

import argparse
import dataclasses
import os

from agents.cli import brokers
from agents.cli.base import DONE, FAILED, EoError, confirm, emit, writing
from agents.cli.brokers import ready
from agents.cli.known_names import refuse_misspelt
from agents.cli.parser import number
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  eo broker up\n  eo broker status --json\n  eo broker up --kind mesh\n  eo broker down"
    parser.add_argument("what", choices=("up", "status", "down"), help="start or find it, look at it, end it")
    parser.add_argument(
        "--kind",
        choices=("external", "kafka-jars", "container", "mesh"),
        help="this kind only; default: KAFKA_BOOTSTRAP, else the first of kafka-jars, container, mesh that can run",
    )
    parser.add_argument(
        "--timeout", type=number(1, 3600), default=60.0, metavar="S", help="seconds to wait for it (60)"
    )
    writing(parser)


def run(args: argparse.Namespace) -> int:
    refuse_misspelt(os.environ)
    return {"up": _up, "status": _status, "down": _down}[args.what](args, Layout.from_env())


def _text(info: brokers.BrokerInfo) -> str:
    who = f"pid {info.pid}" if info.pid else f"container {info.container}" if info.container else "not started by eo"
    return f"{info.bootstrap}  {info.label}  ({who})"


def _up(args: argparse.Namespace, layout: Layout) -> int:
    if args.dry_run:
        found = brokers.status(layout)
        text = f"{_text(found)} would be used." if found else f"A broker would be started in {layout.broker}."
        emit(args, {"would_start": found is None}, text)
        return DONE
    info = brokers.up(layout, kind=args.kind, timeout_s=args.timeout)
    emit(args, dataclasses.asdict(info), _text(info))
    return DONE


def _status(args: argparse.Namespace, layout: Layout) -> int:
    info = brokers.status(layout)
    if info is None:
        emit(args, {"running": False}, f"No broker runs from {layout.broker}; `eo broker up` starts one.")
        return FAILED
    try:
        ready.check_listeners(info.bootstrap)
        problem = None
    except EoError as error:
        problem = str(error)
    value = {"running": True, "answers": problem is None, "problem": problem, **dataclasses.asdict(info)}
    emit(args, value, _text(info) if problem is None else f"{_text(info)}\n{problem}")
    return DONE if problem is None else FAILED


def _down(args: argparse.Namespace, layout: Layout) -> int:
    if args.dry_run:
        found = brokers.status(layout, env={})
        emit(args, {"would_end": found is not None}, f"{_text(found)} would end." if found else "Nothing runs here.")
        return DONE
    found = brokers.status(layout, env={})
    if found is not None and found.kind == "mesh":
        confirm(
            args, f"The broker at {found.bootstrap} keeps its records in memory only: ending it loses them. End it?"
        )
    ended = brokers.down(layout)
    kept = "" if found is None or found.kind == "mesh" else f" Its store stays in {layout.broker}."
    emit(args, {"ended": ended}, f"The broker has ended.{kept}" if ended else f"No broker runs from {layout.broker}.")
    return DONE
