"""`eo fleet`: simulated nodes as one process; everything that they publish is marked simulated."""

from __future__ import annotations

import argparse
import logging
import os

from agents.cli.base import DONE, USAGE, EoError
from agents.cli.parser import number, whole
from agents.node.training_rules import KNOBS
from streams.contract.layout import Layout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: eo fleet --nodes 10 --gpus 8"
    parser.add_argument("--nodes", type=whole(1, 100_000), default=10, help="simulated nodes (default 10)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs per node, a multiple of 4 (default 8)")
    parser.add_argument("--seed", type=int, default=1, help="seed of load, sensors and silicon spread (default 1)")
    parser.add_argument(
        "--training", type=whole(0, 100_000), default=0, help="nodes that train instead of serving (default 0)"
    )
    parser.add_argument("--training-knob", choices=KNOBS, default="clock", help="what their jobs turn (default clock)")
    parser.add_argument(
        "--training-steps", type=whole(1, 10**12), default=None, help="length of their runs (default unknown)"
    )
    parser.add_argument(
        "--training-step-s", type=number(0, 3600, above=True), default=0.8, help="length of a step (default 0.8 s)"
    )
    parser.add_argument(
        "--thin", type=number(0, 1, above=True), default=None, help="share of the recorded trace that one engine takes"
    )


def run(args: argparse.Namespace) -> int:
    from agents.cli.brokers import resolve_bootstrap
    from agents.fleet.run import FleetPlan, main
    from agents.node.errors import NodeError

    if args.gpus % 4 or args.gpus < 4 or args.nodes < 1:
        raise EoError(f"{args.nodes} nodes with {args.gpus} GPUs cannot be simulated; engines span 4 GPUs each", USAGE)
    if not 0 <= args.training < args.nodes:
        raise EoError(f"--training is {args.training} of {args.nodes} nodes; give 0 to {args.nodes - 1}", USAGE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    layout = Layout.from_env()
    if not layout.keyring.exists():
        raise EoError(
            f"{layout.keyring} does not exist, so no command could be verified; make it with `eo config keys`"
        )
    plan = FleetPlan(
        os.environ.get("EO_CLUSTER") or "default",
        args.nodes,
        args.gpus,
        args.seed,
        metrics=_metrics(),
        thin=args.thin,
        training=args.training,
        training_knob=args.training_knob,
        training_steps=args.training_steps,
        training_step_s=args.training_step_s,
    )
    try:
        main(layout, plan, bootstrap=resolve_bootstrap(layout))
    except NodeError as error:
        raise EoError(str(error)) from error
    return DONE


def _metrics() -> tuple[str, int]:
    """Where /metrics listens: EO_METRICS_HOST and EO_METRICS_PORT, as for the stream workers."""
    port = os.environ.get("EO_METRICS_PORT") or "0"
    if not port.isdecimal() or int(port) > 65535:
        raise EoError(f"EO_METRICS_PORT is {port!r}; give 0 to 65535, 0 takes any free port", USAGE)
    return os.environ.get("EO_METRICS_HOST") or "127.0.0.1", int(port)
