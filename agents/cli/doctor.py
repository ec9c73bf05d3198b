"""`eo doctor [kafka|sensors]`: what is missing on this machine or at the broker, and what its sensors are worth.

It changes nothing, but for one short-lived topic of its own at the broker, which it removes again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict
from pathlib import Path

from agents.cli.base import DONE, FAILED, USAGE, EoError, emit
from agents.cli.doctor_check import Check, render
from streams.contract.layout import Layout

LONGEST_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  eo doctor\n  eo doctor kafka --json\n  eo doctor sensors --archive DIR"
    kinds = ("machine", "kafka", "sensors")
    parser.add_argument("what", nargs="?", choices=kinds, default="machine", help="default: machine")
    parser.add_argument("--archive", metavar="DIR", help="sensors: a folder of recordings instead of this machine's")
    parser.add_argument("--seconds", type=float, metavar="S", help="sensors: how long to watch this machine's (4)")


def run(args: argparse.Namespace) -> int:
    if args.archive is not None and args.what != "sensors":
        raise EoError("--archive belongs to `eo doctor sensors`", USAGE)
    if args.seconds is not None:
        _checked(args)
    if args.what == "sensors":
        return _sensors(args)
    checks = machine_checks() if args.what == "machine" else kafka_checks()
    failed = sum(check.verdict == "fail" for check in checks)
    emit(args, {"ok": not failed, "checks": [asdict(check) for check in checks]}, lambda: render(checks))
    return FAILED if failed else DONE


def _checked(args: argparse.Namespace) -> None:
    if args.what != "sensors" or args.archive is not None:
        raise EoError("--seconds belongs to `eo doctor sensors` of this machine", USAGE)
    if not 1.0 <= args.seconds <= LONGEST_S:
        raise EoError(f"--seconds {args.seconds:g} is out of bounds; give 1 to {LONGEST_S:g}", USAGE)


def _sensors(args: argparse.Namespace) -> int:
    from agents.cli import doctor_sensors

    if args.archive is not None:
        checks, rows = doctor_sensors.archive(Path(args.archive))
    else:
        sources = doctor_sensors.sources_here(os.environ)
        try:
            checks, rows = doctor_sensors.live(sources, seconds=args.seconds or doctor_sensors.LIVE_S)
        finally:
            for source in sources:
                source.close()
    failed = any(check.verdict == "fail" for check in checks)
    result = {"ok": not failed, "checks": [asdict(check) for check in checks], "sensors": rows}
    emit(args, result, lambda: render(checks))
    return FAILED if failed else DONE


def machine_checks() -> list[Check]:
    """Python, Java, Maven, container engine, NVML, data folder, keys, settings, broker."""
    from agents.cli import doctor_machine

    return doctor_machine.checks(Layout.from_env(), os.environ)


def kafka_checks() -> list[Check]:
    """Reachable, listeners, coordinators, topics, rights, round trip, clock."""
    from agents.cli import doctor_kafka

    return doctor_kafka.checks(Layout.from_env(), os.environ)
