"""A loopback HTTP server that answers raw bytes, so that every way of answering badly can be had by name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

Answer = bytes | Callable[[socket.socket], None]


def ok(body: bytes, *, head: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), head, body)


def drip(link: socket.socket, stop: threading.Event) -> None:
    """One byte every 50 ms, for ever: no single wait is long."""
    with contextlib.suppress(OSError):
        link.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while not stop.wait(0.05):
            link.sendall(b"m")


class TextServer:
    """Answers each path with what `answers` holds; `requests` keeps the heads."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.answers: dict[str, Answer] = {}
        self.requests: list[bytes] = []
        self.stop = threading.Event()
        self._listen = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listen.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self.stop.is_set():
            try:
                link, _ = self._listen.accept()
            except OSError:
                return
            with link, contextlib.suppress(OSError):
                if self._tls is None:
                    self._answer(link)
                else:
                    with self._tls.wrap_socket(link, server_side=True) as wrapped:
                        self._answer(wrapped)

    def _answer(self, link: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (piece := link.recv(4096)):
            head += piece
        if not head:
            return
        self.requests.append(head)
        answer = self.answers.get(head.split(b" ")[1].decode(), b"HTTP/1.1 404 Not Found\r\n\r\n")
        if isinstance(answer, bytes):
            link.sendall(answer)
        else:
            answer(link)

    def close(self) -> None:
        self.stop.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self._listen.getsockname(), timeout=1).close()  # wakes accept
        self._thread.join(5)
        self._listen.close()


@contextlib.contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[TextServer]:
    server = TextServer(tls)
    try:
        yield server
    finally:
        server.close()
