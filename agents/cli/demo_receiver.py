"""The demo's own webhook receiver: a small server on loopback that checks every signature, as a receiver should.

It is registered by name through the address guard for this demo only, and taken out again at its end. It keeps counts
and no messages.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from streams.contract.layout import Layout

NAME: Final = "demo"
HOST: Final = "127.0.0.1"
LARGEST: Final = 256 * 1024
TOLERANCE_S: Final = 300.0


def verified(body: bytes, headers: Mapping[str, str], secret: str, now_s: float) -> bool:
    """Whether one of the signatures is right and the time is near: docs/webhooks.md, written anew on this side."""
    sent, message_id = headers.get("webhook-timestamp", ""), headers.get("webhook-id", "")
    if not sent.isdecimal() or abs(now_s - int(sent)) > TOLERANCE_S:
        return False
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.new(key, f"{message_id}.{sent}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(digest).decode()
    return any(hmac.compare_digest(wanted, one) for one in headers.get("webhook-signature", "").split(" "))


class DemoReceiver:
    """Listens from `__init__` on; `register` names it as a receiver, `close` takes it out again."""

    def __init__(self, layout: Layout) -> None:
        self._layout, self._secret = layout, ""
        self.verified = self.refused = 0
        self._server = ThreadingHTTPServer((HOST, 0), _handler(self))
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True, name="demo-receiver").start()

    def take(self, body: bytes, headers: Mapping[str, str]) -> bool:
        """One message; whether it may be answered with 204."""
        good = bool(self._secret) and verified(body, headers, self._secret, time.time())
        if good:
            self.verified += 1
        else:
            self.refused += 1
        return good

    def test(self, cluster: str) -> str:
        """Registers itself, sends the test message of `eo webhook test`, and says in one line what came of it."""
        from agents.cli.webhook import send_test
        from streams.errors import StreamsError
        from streams.sinks.receivers import Receiver, Receivers

        if os.environ.get("EO_WEBHOOK_FILE"):
            return "webhook test: left out, because EO_WEBHOOK_FILE names receivers of yours; eo webhook test NAME"
        book = Receivers(self._layout.deliver / "webhooks.json")
        receiver = Receiver(
            name=NAME,
            url=f"http://{HOST}:{self.port}/",
            allow_hosts=(HOST,),
            allow_ports=(self.port,),
            created_ns=time.time_ns(),
        )
        try:
            self._secret = book.add(receiver) or ""
            answer = send_test(book, book.get(NAME), cluster)
        except StreamsError as error:
            return f"webhook test: failed ({error})"
        said = "signature verified" if self.verified else "signature NOT verified"
        if answer.ok:
            return f"webhook test: delivered in {answer.took_ms:.0f} ms, {said}"
        told = answer.status if answer.status is not None else answer.detail
        return f"webhook test: not delivered ({told}) after {answer.took_ms:.0f} ms"

    def close(self) -> None:
        """Nobody is told here any more."""
        from streams.errors import StreamsError
        from streams.sinks.receivers import Receivers

        if self._secret:
            with suppress(StreamsError):  # removed by hand meanwhile
                Receivers(self._layout.deliver / "webhooks.json").remove(NAME)
        self._server.shutdown()
        self._server.server_close()


def _handler(receiver: DemoReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_POST(self) -> None:
            length = self.headers.get("content-length", "")
            if not length.isdecimal() or int(length) > LARGEST:
                self.send_error(413)
                return
            body = self.rfile.read(int(length))
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.send_response(204 if receiver.take(body, headers) else 401)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet: the demo shows the counts."""

    return Handler
