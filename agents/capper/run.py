"""One capper process: settings, actuators, signals, socket. Puts everything back before it ends by a signal."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path

from agents.capper.actuators.base import Actuator
from agents.capper.core import Capper
from agents.capper.errors import CapperError
from agents.capper.protocol import SOCKET_NAME
from agents.capper.server import CapperServer
from agents.capper.settings import CapperSettings
from streams.contract.signing import KeyRing

log = logging.getLogger("eo.capper")


def load_keyring(path: Path) -> KeyRing:
    """The public keys whose commands are obeyed. Raises CapperError with the next step."""
    try:
        return KeyRing.load(path)
    except OSError as error:
        text = f"{path} cannot be read ({error.strerror}), so no command can be verified: make keys by `eo config keys`"
        raise CapperError(text) from error
    except ValueError as error:
        raise CapperError(str(error)) from error


def serve(
    *,
    node: str,
    cluster: str,
    settings: CapperSettings,
    power: Actuator | None,
    clock: Actuator | None,
    folder: Path,
    keyring: KeyRing,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Runs until SIGTERM or SIGINT, then restores. Raises CapperError when it cannot start safely."""
    stop = _StopSignal()
    capper = Capper(
        node=node, cluster=cluster, settings=settings, power=power, clock=clock, folder=folder, keyring=keyring
    )
    capper.start()
    server = CapperServer(capper, folder / SOCKET_NAME)
    try:
        server.open()
        ready()
        server.run(stop)
    finally:
        server.close()
        capper.close()
        for actuator in (power, clock):
            getattr(actuator, "close", lambda: None)()  # those that keep a connection


class _StopSignal:
    """Becomes true at the first SIGTERM or SIGINT."""

    def __init__(self) -> None:
        self._set = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self._set = True

    def __call__(self) -> bool:
        return self._set
