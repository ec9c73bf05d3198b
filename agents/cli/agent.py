"""`eo agent`: run this machine's node agent. Settings come from EO_NODE_* and the file that EO_NODE_CONFIG names."""

from __future__ import annotations

import argparse
import logging
import os
from typing import TYPE_CHECKING

from agents.cli.base import DONE, USAGE, EoError, emit
from agents.cli.parser import name

if TYPE_CHECKING:
    from agents.node.run import AgentProcess
    from agents.node.settings import NodeSettings
    from streams.contract.layout import Layout

DESCRIPTION = """Samples this machine every second, keeps the samples on disk until Kafka has them, takes commands and
passes them to the capper. Runs without a GPU, without a broker and without a capper. Ends on SIGTERM or Ctrl-C.

  eo agent                          sources nvml and procfs
  eo agent --source procfs --once   one sample of the host, published, then end
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options; each wins over its EO_NODE_ name."""
    parser.description = DESCRIPTION
    parser.epilog = "example: eo agent --once --json"
    parser.add_argument("--once", action="store_true", help="one sample, published when a broker answers, then end")
    parser.add_argument("--node", type=name, help="this node's name; default: EO_NODE_NAME, then the host's name")
    parser.add_argument(
        "--source", action="append", metavar="NAME", help="a source, see `eo read list`; may be repeated"
    )
    parser.add_argument("--bootstrap", help="the broker, host:port; default: KAFKA_BOOTSTRAP, then `eo broker`")


def run(args: argparse.Namespace) -> int:
    """Runs the agent; returns the exit code."""
    from agents.cli.known_names import refuse_misspelt
    from agents.node.errors import NodeError, SettingsError
    from agents.node.run import AgentProcess
    from streams.contract.layout import Layout

    layout = Layout.from_env()
    try:
        settings = _settings(args)
        refuse_misspelt(os.environ)
        logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
        process = AgentProcess(settings, layout, bootstrap=lambda: _bootstrap(args, layout))
        if args.once:
            return _once(args, process)
        process.run()
    except SettingsError as error:
        raise EoError(str(error), USAGE) from error
    except NodeError as error:
        raise EoError(str(error)) from error
    return DONE


def _settings(args: argparse.Namespace) -> NodeSettings:
    from dataclasses import replace

    from agents.node.settings import NodeSettings

    settings = NodeSettings.from_env()
    if args.node:
        settings = replace(settings, name=args.node)
    return replace(settings, sources=tuple(args.source)) if args.source else settings


def _bootstrap(args: argparse.Namespace, layout: Layout) -> str | None:
    from agents.cli.brokers import resolve_bootstrap

    if args.bootstrap:
        return str(args.bootstrap)
    try:
        return resolve_bootstrap(layout)
    except EoError:
        return None  # no broker is a normal state of a node agent: it spools and asks again


def _once(args: argparse.Namespace, process: AgentProcess) -> int:
    import msgspec

    record, delivered = process.once()
    where = "published" if delivered else "kept in the spool: no broker took it"
    told = f"{record.node}: one sample of {', '.join(record.source) or 'no source'}, {where}"
    emit(args, {"delivered": delivered, "record": msgspec.to_builtins(record)}, told)
    return DONE  # a sample that waits in the spool is not lost
