"""Runs the gateway in this process: socket, uvicorn, the note in run/. It is never open where others can reach it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from agents.cli.base import DEMO_MARK, REFUSED, EoError
from agents.gateway.settings import GatewaySettings, is_loopback

log = logging.getLogger(__name__)
SHUTDOWN_S = 3  # streams are cut after this long


def check(settings: GatewaySettings) -> None:
    """Raises EoError for a gateway without keys that others could reach, or one that plays a demo outside of it."""
    in_demo = (settings.layout.root / DEMO_MARK).exists()
    if settings.sample_history and not in_demo:
        raise EoError(
            f"EO_GATEWAY_SAMPLE_HISTORY is set and {settings.layout.root} is no demo's data folder; unset it, so that "
            "no forecast of yours is made from a made-up past.",
            REFUSED,
        )
    if settings.archive_dir is not None and not settings.archive_dir.is_dir():
        raise EoError(f"{settings.archive_dir} is no folder; name an archive's, or leave --archive out.")
    if not settings.open_demo:
        return
    if not is_loopback(settings.host):
        raise EoError(
            f"EO_GATEWAY_OPEN_DEMO is set and the host is {settings.host}, which others can reach; listen on "
            "127.0.0.1, or unset it and make keys with `eo keys add NAME --role read`.",
            REFUSED,
        )
    if not in_demo:
        raise EoError(
            f"EO_GATEWAY_OPEN_DEMO is set and {settings.layout.root} is no demo's data folder; unset it and make keys "
            "with `eo keys add NAME --role read`.",
            REFUSED,
        )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises EoError with the address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(512)
    except OSError as error:
        raise EoError(
            f"the API cannot listen on {host or repr(host)}:{port} ({error.strerror or error}); choose another with "
            + ("--host." if isinstance(error, socket.gaierror) else "--port, 0 takes a free one.")
        ) from error
    return opened


def serve(settings: GatewaySettings, *, told: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C; `told` gets the address once it listens."""
    import uvicorn

    from agents.cli import intents
    from agents.cli.jobs import JobProbe
    from agents.cli.placement import PlacementReader
    from agents.gateway.feed import kafka_reader
    from agents.gateway.main import build_app, make_context
    from streams import run_note

    check(settings)
    opened = listen(settings.host, settings.port)
    placement = PlacementReader(settings.bootstrap, settings.cluster, client_id="eo-gateway-placement")
    context = make_context(
        settings,
        open_reader=kafka_reader(settings.bootstrap),
        publish=lambda words: intents.publish_all(settings.bootstrap, words),
        look_at_jobs=JobProbe(settings.bootstrap, settings.cluster, settings.job_names, client_id="eo-gateway").look,
        look_at_places=placement.look,
    )
    host, port = opened.getsockname()[:2]
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    note: Path | None = None
    config = uvicorn.Config(
        build_app(context),
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        proxy_headers=False,  # a caller's X-Forwarded-For must not make it a loopback caller
        limit_concurrency=1000,
    )
    # uvicorn ends by itself on these and then raises them again: by then everything is put away, and we return.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        metrics = context.metrics.serve(settings.metrics_host, settings.metrics_port)
        note = run_note.write(settings.layout, "gateway", role="gateway", address=address, metrics=metrics)
        told(address)
        uvicorn.Server(config).run(sockets=[opened])
    finally:
        opened.close()
        if note is not None:
            run_note.forget(note)
