"""Runs the gateway in this process: socket, uvicorn, the note in run/. It is never open where others can reach it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from agents.cli.base import DEMO_MARK, REFUSED, USAGE, EoError
from agents.gateway.settings import GatewaySettings, is_loopback

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

log = logging.getLogger(__name__)
CONNECTIONS = 1000
OPEN_FILES = 8192
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
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise EoError("TLS needs both --tls-cert and --tls-key; give the other one too, or none.", USAGE)
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


def config_of(app: FastAPI, settings: GatewaySettings) -> uvicorn.Config:
    """How the application is served; raises EoError for a certificate that cannot be used."""
    import ssl

    import uvicorn

    from agents.gateway.protocol import Bounded

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        http=Bounded,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_S,
        proxy_headers=False,  # a caller's X-Forwarded-For must not make it a loopback caller
        limit_concurrency=CONNECTIONS,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise EoError(
            f"the certificate {settings.tls_cert} with key {settings.tls_key} cannot be used ({error}); give PEM files "
            "that belong together, the chain in the first."
        ) from error
    return config


def raise_open_files() -> None:
    """Each connection is an open file, and many systems allow 1,024 unless asked."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
    raise_open_files()
    opened = listen(settings.host, settings.port)
    placement = PlacementReader(settings.bootstrap, settings.cluster, client_id="eo-gateway-placement")
    context = make_context(
        settings,
        open_reader=kafka_reader(settings.bootstrap),
        publish=lambda words: intents.publish_all(settings.bootstrap, words),
        known_caps=lambda: intents.newest_of(settings.bootstrap, settings.layout, "cap", settings.cluster),
        look_at_jobs=JobProbe(settings.bootstrap, settings.cluster, settings.job_names, client_id="eo-gateway").look,
        look_at_places=placement.look,
    )
    host, port = opened.getsockname()[:2]
    scheme = "http" if settings.tls_cert is None else "https"
    address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
    note: Path | None = None
    config = config_of(build_app(context), settings)
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
