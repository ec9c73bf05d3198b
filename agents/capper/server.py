"""The capper's Unix socket: 0600, peers checked by the kernel's word (SO_PEERCRED), bounded requests, one thread.

One loop serves and ticks, so that no lock guards the core and no slow client delays the end of a lease by more than a
quarter of a second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agents.capper import protocol
from agents.capper.core import Capper
from agents.capper.errors import CapperError
from streams.contract.records import PowerApplied

log = logging.getLogger("eo.capper")
TICK_S: Final = 0.2
SEND_S: Final = 0.25
MAX_CLIENTS: Final = 16
_PATH_BYTES: Final = 107  # sockaddr_un


class Client:
    """One connection and the bytes of its unfinished line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.pending = bytearray()


class CapperServer:
    """Serves one started Capper until told to stop."""

    def __init__(self, capper: Capper, path: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._capper, self._path, self._monotonic = capper, path, monotonic
        self._allowed = {0, os.getuid(), *capper.settings.allow_uids}
        self._line_limit = 4 * capper.settings.max_request_bytes  # an envelope is escaped inside its line
        self._selector = selectors.DefaultSelector()
        self._listener: socket.socket | None = None
        self._undelivered: list[PowerApplied] = []

    def open(self) -> None:
        """Binds the socket; the caller holds the folder's lock: an old socket file is nobody's. Raises CapperError."""
        if len(os.fsencode(self._path)) > _PATH_BYTES:
            raise CapperError(f"{self._path} is longer than {_PATH_BYTES} bytes; set EO_DATA_DIR to a shorter path")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        mask = os.umask(0o177)
        try:
            self._path.unlink(missing_ok=True)
            listener.bind(os.fspath(self._path))
            if self._capper.settings.allow_uids and os.getuid() == 0:
                os.chown(self._path, self._capper.settings.allow_uids[0], -1)
        except OSError as error:
            listener.close()
            raise CapperError(f"{self._path} cannot be opened ({error.strerror}); give this user the folder") from error
        finally:
            os.umask(mask)
        listener.listen(MAX_CLIENTS)
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ, None)
        self._listener = listener

    def run(self, stopped: Callable[[], bool]) -> None:
        """Serves and ticks until `stopped()`; looks at it at least five times a second."""
        next_tick_s = self._monotonic()
        while not stopped():
            for key, _ in self._selector.select(max(0.0, next_tick_s - self._monotonic())):
                if key.data is None:
                    self._accept()
                else:
                    self._receive(key.data)
            if self._monotonic() >= next_tick_s:
                self._capper.tick()
                next_tick_s = self._monotonic() + TICK_S

    def close(self) -> None:
        """Hangs up on everybody and removes the socket file."""
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()
        if self._listener is not None:
            self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        if self._listener is None:
            return
        connection, _ = self._listener.accept()
        connection.settimeout(SEND_S)
        uid = peer_uid(connection)
        if uid not in self._allowed:
            log.warning("refused uid %d at %s", uid, self._path)
            self._say(connection, protocol.error(f"user {uid} may not talk to this capper; add it to allow_uids"))
            connection.close()
        elif len(self._selector.get_map()) > MAX_CLIENTS:
            self._say(connection, protocol.error(f"{MAX_CLIENTS} clients are connected already; close one"))
            connection.close()
        else:
            self._selector.register(connection, selectors.EVENT_READ, Client(connection))

    def _receive(self, client: Client) -> None:
        try:
            chunk = client.connection.recv(65_536)
        except OSError:
            chunk = b""
        if not chunk:
            self._hang_up(client)
            return
        client.pending += chunk
        while (end := client.pending.find(b"\n")) >= 0:
            line = bytes(client.pending[:end])
            del client.pending[: end + 1]
            if not self._serve(client, line):
                return
        if len(client.pending) > self._line_limit:
            self._say(client.connection, protocol.error(f"a request is longer than {self._line_limit} bytes"))
            self._hang_up(client)

    def _serve(self, client: Client, line: bytes) -> bool:
        """Answers one line; False when the client is gone. Events leave our list only once they are delivered."""
        try:
            request = protocol.parse(line)
        except protocol.BadRequest as error:
            return self._say(client.connection, protocol.error(str(error))) or self._hang_up(client)
        if request.op == "events":
            self._undelivered += self._capper.events()
        delivered = self._say(client.connection, protocol.answer(self._capper, request, self._undelivered))
        if delivered and request.op == "events":
            self._undelivered = []
        return delivered or self._hang_up(client)

    def _hang_up(self, client: Client) -> bool:
        with contextlib.suppress(KeyError):
            self._selector.unregister(client.connection)
        client.connection.close()
        return False

    @staticmethod
    def _say(connection: socket.socket, text: bytes) -> bool:
        try:
            connection.sendall(text)
        except OSError as error:
            log.warning("an answer could not be delivered: %s", error)
            return False
        return True


def peer_uid(connection: socket.socket) -> int:
    """The user at the other end, as the kernel knows it."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", raw)[1])
