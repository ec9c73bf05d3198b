"""Fake BMCs on loopback: any number of them, each on a free port, in one thread of this process; HTTP or TLS.

Faults of the transport: `hang` (takes the request and never answers), `slow` (answers after `delay_s`), `drip` (a byte
at a time), `close` (ends the connection in the middle of the answer), `not_http` (answers nonsense), `rewritten` (links
carry the gateway's path).
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from tests.fakes.bmc.logic import FakeBmc, Reply


class BmcServers:
    """`with BmcServers() as servers: url = servers.add(FakeBmc())`."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, delay_s: float = 0.0) -> None:
        self._tls, self.delay_s = tls, delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-bmcs", daemon=True)
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()  # of every connection: some end without their handler
        self._serving: set[asyncio.Task[None]] = set()  # a loop alone does not hold its tasks

    def __enter__(self) -> BmcServers:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        await asyncio.sleep(0.01)  # connections just taken get their handler
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A handler that is cancelled before its first step never runs, so its connection is ended here.
        writers = list(self._writers)
        for writer in writers:
            writer.transport.abort()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    def add(self, bmc: FakeBmc) -> str:
        """Starts one BMC; returns its URL."""
        return asyncio.run_coroutine_threadsafe(self._start(bmc), self._loop).result(10)

    async def _start(self, bmc: FakeBmc) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
                while await self._exchange(bmc, reader, writer):
                    pass
            writer.transport.abort()

        def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            serving = asyncio.get_running_loop().create_task(serve(reader, writer))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

        server = await asyncio.start_server(taken, "127.0.0.1", 0, ssl=self._tls)
        self._servers.append(server)
        port = server.sockets[0].getsockname()[1]
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"

    async def _exchange(self, bmc: FakeBmc, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ", 2)
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if "hang" in bmc.faults:
            bmc.requests.append((method, target))
            await asyncio.sleep(3600)
        if "slow" in bmc.faults:
            await asyncio.sleep(self.delay_s)
        if "not_http" in bmc.faults:
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            await writer.drain()
            return False
        if not target.startswith(bmc.prefix):
            await _send(writer, Reply(404), method, bmc.faults)
            return True
        reply = bmc.answer(method, target.removeprefix(bmc.prefix), headers, body)
        if "rewritten" in bmc.faults:
            reply.body = reply.body.replace(b'"/redfish', f'"{bmc.prefix}/redfish'.encode())
            reply.headers = {k: v.replace("/redfish", f"{bmc.prefix}/redfish") for k, v in reply.headers.items()}
        await _send(writer, reply, method, bmc.faults)
        return "close" not in bmc.faults


async def _send(writer: asyncio.StreamWriter, reply: Reply, method: str, faults: set[str]) -> None:
    lines = {"Content-Length": str(len(reply.body)), **reply.headers}
    head = f"HTTP/1.1 {reply.status} Fake\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    raw = head.encode("latin-1") + (b"" if method == "HEAD" else reply.body)
    if "drip" in faults:
        for n in range(len(raw)):
            writer.write(raw[n : n + 1])
            await writer.drain()
            await asyncio.sleep(0.05)
    writer.write(raw[: len(raw) // 2] if "close" in faults else raw)
    await writer.drain()


def certificate(folder: Path, *, name: str = "127.0.0.1") -> tuple[ssl.SSLContext, Path]:
    """A self-made CA certificate for loopback: the server's context, and the file that a client trusts it by."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, pem


@contextlib.contextmanager
def one_bmc(bmc: FakeBmc, **options: object) -> Iterator[str]:
    """One fake BMC for a test; gives its URL."""
    with BmcServers(**options) as servers:  # type: ignore[arg-type]
        yield servers.add(bmc)
