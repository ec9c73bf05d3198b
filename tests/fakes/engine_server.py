"""A serving engine's HTTP server with named faults, on loopback, ended by `close`."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class EngineServer:
    """Answers GET with `text`.

    Faults (`fault`): "hang" takes the request and says nothing until closed, "drip" sends a byte now and then for ever,
    "half" breaks off in the middle, "redirect", "500", "401", "huge" (16 MiB), "not http".
    """

    def __init__(self, text: str = "") -> None:
        self.text, self.fault, self.asked = text, "", 0
        self.release = threading.Event()
        self.hanging = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked += 1
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                return

        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._httpd.daemon_threads = True
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._httpd.server_address[1]}/metrics"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request under the fault that is set."""
        body = self.text.encode()
        if self.fault == "hang":
            self.hanging.set()
            self.release.wait(30)
            return
        if self.fault == "not http":
            handler.wfile.write(b"\x00\x01 hello\r\n\r\n")
            return
        status = {"redirect": 302, "500": 500, "401": 401}.get(self.fault, 200)
        handler.send_response(status)
        if self.fault == "redirect":
            handler.send_header("Location", "http://127.0.0.1:1/")
        size = 16 * 2**20 if self.fault == "huge" else len(body) + (100 if self.fault in {"half", "drip"} else 0)
        handler.send_header("Content-Length", str(size))
        handler.end_headers()
        try:
            handler.wfile.write(b"x" * size if self.fault == "huge" else body)
            while self.fault == "drip" and not self.release.wait(0.02):
                handler.wfile.write(b"#")
                handler.wfile.flush()
        except OSError:
            return  # the client has had enough

    def close(self) -> None:
        """Lets go of hanging answers and ends the server."""
        self.release.set()
        self._httpd.shutdown()
        self._httpd.server_close()
        self._thread.join(5)
