"""`eo capper`: runs the one privileged process of a node. It sets nothing unless its owner opted in."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import DONE, FAILED, USAGE, EoError
from agents.cli.parser import name
from streams.contract.layout import Layout

if TYPE_CHECKING:
    from agents.capper.actuators.base import Actuator
    from agents.capper.settings import CapperSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    node = os.environ.get("EO_NODE_NAME") or socket.gethostname()
    cluster = os.environ.get("EO_NODE_CLUSTER") or os.environ.get("EO_CLUSTER") or "default"
    parser.add_argument(
        "--node", type=name, default=node, help="this node's name (default: EO_NODE_NAME, then the host's name)"
    )
    parser.add_argument("--cluster", default=cluster, help="name of the cluster (default: EO_CLUSTER)")
    parser.add_argument("--config", type=Path, help="TOML file with a [capper] table; EO_CAPPER_* wins over it")
    parser.add_argument(
        "--actuator", choices=("nvml", "dry-run", "twin", "redfish"), help="what to set; overrides the settings"
    )
    parser.epilog = "example: EO_CAPPER_OPT_IN=1 EO_CAPPER_MAX_MODE=canary eo capper --node gpu-17"


def run(args: argparse.Namespace) -> int:
    from agents.capper import run as capper_run
    from agents.capper import settings as capper_settings
    from agents.capper.errors import CapperError, SettingsError
    from agents.cli.known_names import refuse_misspelt

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    layout = Layout.from_env()
    try:
        settings = capper_settings.load(args.config)
        refuse_misspelt(os.environ)
        settings = replace(settings, actuator=args.actuator) if args.actuator else settings
        power, clock = actuators(settings.actuator, layout, args.node, settings)
        capper_run.serve(
            node=args.node,
            cluster=args.cluster,
            settings=settings,
            power=power,
            clock=clock,
            folder=layout.capper / args.node,
            keyring=capper_run.load_keyring(layout.keyring),
            ready=lambda: print(_ready(args.node, settings), file=sys.stderr, flush=True),
        )
    except SettingsError as error:
        raise EoError(str(error), USAGE) from error
    except CapperError as error:
        raise EoError(str(error), FAILED) from error
    return DONE


def _ready(node: str, settings: object) -> str:
    opt_in, mode = getattr(settings, "opt_in", False), getattr(settings, "max_mode", "observe")
    allowed = f"obeys commands up to mode {mode}" if opt_in else "refuses every command: opt_in is false"
    return f"capper of {node} is ready and {allowed}"


def actuators(
    kind: str, layout: Layout, node: str, settings: CapperSettings | None = None
) -> tuple[Actuator, Actuator | None]:
    """(power, clock) actuators of a node by kind: nvml, dry-run, twin, redfish. Raises EoError, CapperError.

    Without settings those of the environment are used, as `eo restore` does.
    """
    from agents.capper import settings as capper_settings
    from agents.capper.actuators.make import make
    from agents.capper.actuators.twin import TwinActuator

    if kind != "twin":
        return make(kind, settings or (capper_settings.load() if kind == "redfish" else None))
    registers = _registers(layout.fleet)
    rows = {uuid: row for uuid, row in registers.rows.items() if registers.node_name(uuid) == node}
    return TwinActuator(registers, "power_limit_w", rows), TwinActuator(registers, "sm_lock_mhz", rows)


@cache
def _registers(folder: Path) -> Any:
    """The simulated devices, opened once per command. Imported here only: it brings numpy."""
    try:
        return importlib.import_module("agents.fleet.registers").open_registers(folder)
    except (OSError, ValueError) as error:
        raise EoError(f"the simulated devices cannot be opened: {error}") from error
