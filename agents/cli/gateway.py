"""`eo gateway`: run the Energy API with its console, on loopback unless told otherwise."""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.cli.base import DONE, USAGE, EoError

if TYPE_CHECKING:
    from pydantic import ValidationError

    from agents.gateway.settings import GatewaySettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n  eo keys add grafana --role read\n  eo gateway\n  eo gateway --host 0.0.0.0 --port 8787\n"
        "callers need a key, see docs/api.md; the demo's gateway answers loopback callers without one"
    )
    parser.add_argument("--host", help="address to listen on (EO_GATEWAY_HOST; default 127.0.0.1)")
    parser.add_argument("--archive", dest="archive_dir", type=Path, metavar="DIR", help="archive to answer from")
    parser.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate and chain: serve https")
    parser.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    parser.add_argument("--port", type=int, help="port, 0 takes a free one (EO_GATEWAY_PORT; default 8787)")


def run(args: argparse.Namespace) -> int:
    from agents.gateway.run import check, serve

    settings = settings_of(args)
    check(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)

    def told(address: str) -> None:
        text = json.dumps({"address": address}) if args.json else f"Energy API on {address} (docs at {address}/docs)"
        print(text, flush=True)

    serve(settings, told=told)
    return DONE


def settings_of(args: argparse.Namespace) -> GatewaySettings:
    """Settings of the environment and the options, the broker found; raises EoError(USAGE) naming the setting."""
    from pydantic import ValidationError

    from agents.cli.brokers import resolve_bootstrap
    from agents.cli.intents import cluster_name
    from agents.gateway.settings import GatewaySettings

    names = ("host", "port", "archive_dir", "tls_cert", "tls_key")
    chosen: dict[str, Any] = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        first = GatewaySettings(**chosen)
        found = first.bootstrap or resolve_bootstrap(first.layout)
        return first.model_copy(update={"bootstrap": found, "cluster": cluster_name()})
    except ValidationError as error:
        raise EoError(_first(error), USAGE) from error


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    name = ".".join(map(str, found["loc"])) or "settings"
    named = name if name.isupper() else f"EO_GATEWAY_{name.upper()}"
    return f"{named} is {found.get('input')!r}: {found['msg']}; `eo config show` lists the settings."
