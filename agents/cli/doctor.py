"""`eo doctor` and `eo doctor kafka`: what is missing on this machine or at the broker, and how to get it.

It changes nothing, but for one short-lived topic of its own at the broker, which it removes again.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import asdict

from agents.cli.base import DONE, FAILED, emit
from agents.cli.doctor_check import Check, render
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples:\n  eo doctor\n  eo doctor kafka --json"
    parser.add_argument("what", nargs="?", choices=("machine", "kafka"), default="machine", help="default: machine")


def run(args: argparse.Namespace) -> int:
    checks = machine_checks() if args.what == "machine" else kafka_checks()
    failed = sum(check.verdict == "fail" for check in checks)
    emit(args, {"ok": not failed, "checks": [asdict(check) for check in checks]}, lambda: render(checks))
    return FAILED if failed else DONE


def machine_checks() -> list[Check]:
    """Python, Java, Maven, container engine, NVML, data folder, keys, settings, broker."""
    from agents.cli import doctor_machine

    return doctor_machine.checks(Layout.from_env(), os.environ)


def kafka_checks() -> list[Check]:
    """Reachable, listeners, coordinators, topics, rights, round trip, clock."""
    from agents.cli import doctor_kafka

    return doctor_kafka.checks(Layout.from_env(), os.environ)
