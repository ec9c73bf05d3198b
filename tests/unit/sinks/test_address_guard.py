"""Where a webhook may not connect to: a table of tricks, each tried against a listener that must see nobody."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from streams.sinks import http_post
from streams.sinks.address_guard import Allowed, Refused, check, forbidden

PUBLIC = "93.184.215.14"


@dataclass
class Listener:
    """Counts connections on every loopback address that this machine has; `answer` is sent to each."""

    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    seen: int = 0
    port: int = 0
    sockets: list[socket.socket] = field(default_factory=list)

    def open(self) -> None:
        for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                one = socket.socket(family, socket.SOCK_STREAM)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind((host, self.port))
            except OSError:
                one.close()  # a machine without IPv6 listens on the other one
                continue
            self.port = one.getsockname()[1]
            one.listen(64)
            self.sockets.append(one)
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        while True:
            try:
                connection, _ = one.accept()
            except OSError:
                return
            self.seen += 1
            with connection:
                connection.recv(65536)
                connection.sendall(self.answer)

    def close(self) -> None:
        for one in self.sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    one = Listener()
    one.open()
    yield one
    one.close()


# (address, what a hostile or careless resolver answers for its name; None = the system's own)
CASES: list[tuple[str, list[str] | None]] = [
    ("http://127.0.0.1:{port}/", None),
    ("http://127.1:{port}/", None),
    ("http://127.0.1:{port}/", None),
    ("http://127.255.255.254:{port}/", None),
    ("http://2130706433:{port}/", None),
    ("http://0x7f000001:{port}/", None),
    ("http://0x7f.0.0.1:{port}/", None),
    ("http://0x7f.1:{port}/", None),
    ("http://0177.0.0.1:{port}/", None),
    ("http://017700000001:{port}/", None),
    ("http://0x7F000001:{port}/", None),
    ("http://127.0.0.1.:{port}/", None),
    ("http://0:{port}/", None),
    ("http://0.0.0.0:{port}/", None),
    ("http://0x0:{port}/", None),
    ("http://00000000000:{port}/", None),
    ("http://localhost:{port}/", None),
    ("http://LOCALHOST:{port}/", None),
    ("http://localhost.:{port}/", None),
    ("http://[::1]:{port}/", None),
    ("http://[0:0:0:0:0:0:0:1]:{port}/", None),
    ("http://[::]:{port}/", None),
    ("http://[::ffff:127.0.0.1]:{port}/", None),
    ("http://[::ffff:7f00:1]:{port}/", None),
    ("http://[::127.0.0.1]:{port}/", None),
    ("http://[64:ff9b::127.0.0.1]:{port}/", None),
    ("http://[2002:7f00:1::]:{port}/", None),
    ("http://[fe80::1%25lo]:{port}/", None),
    ("http://[fe80::1]:{port}/", None),
    ("http://[fc00::1]:{port}/", None),
    ("http://[fd00:ec2::254]:{port}/latest/meta-data/", None),
    ("http://[ff02::1]:{port}/", None),
    ("http://169.254.169.254:{port}/latest/meta-data/", None),
    ("http://0xa9fea9fe:{port}/", None),
    ("http://2852039166:{port}/", None),
    ("http://[::ffff:169.254.169.254]:{port}/", None),
    ("http://100.100.100.200:{port}/", None),
    ("http://192.0.0.192:{port}/", None),
    ("http://metadata.google.internal:{port}/", ["169.254.169.254"]),
    ("http://10.0.0.1:{port}/", None),
    ("http://172.16.0.1:{port}/", None),
    ("http://192.168.0.1:{port}/", None),
    ("http://100.64.0.1:{port}/", None),
    ("http://198.18.0.1:{port}/", None),
    ("http://192.0.2.1:{port}/", None),
    ("http://224.0.0.1:{port}/", None),
    ("http://240.0.0.1:{port}/", None),
    ("http://255.255.255.255:{port}/", None),
    ("http://hook.example:{port}/", ["127.0.0.1"]),
    ("http://hook.example:{port}/", [PUBLIC, "127.0.0.1"]),
    ("http://hook.example:{port}/", ["::ffff:127.0.0.1"]),
    ("http://hook.example:{port}/", ["fe80::1%lo"]),
    ("http://hook.example:{port}/", ["10.1.2.3"]),
    ("http://hook.example:{port}/", ["::1"]),
    ("http://hook.example:{port}/", ["not-an-address"]),
    ("http://hook.example:{port}/", []),
    ("http://user:pass@127.0.0.1:{port}/", None),
    ("http://hook.example@127.0.0.1:{port}/", None),
    ("http://hook.example\\@127.0.0.1:{port}/", [PUBLIC]),
    ("http://127.0.0.1:{port}#@hook.example/", None),
    ("http://hook.example :{port}/", ["127.0.0.1"]),
    ("http://127.0.0.1\t:{port}/", None),
    ("http://１２７.０.０.１:{port}/", None),
    ("http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/", None),
    ("http://127。0。0。1:{port}/", None),
    ("http://hook_example..:{port}/", ["127.0.0.1"]),
    ("gopher://127.0.0.1:{port}/", None),
    ("file:///etc/passwd", None),
    ("ftp://127.0.0.1:{port}/", None),
    ("unix:///var/run/docker.sock", None),
    ("//127.0.0.1:{port}/", None),
    ("http:///", None),
    ("http://[::1:{port}/", None),
    ("http://127.0.0.1:99999/", None),
    ("http://127.0.0.1:-1/", None),
    ("", None),
]


@pytest.mark.parametrize(("url", "answers"), CASES)
def test_no_trick_reaches_anybody(listener: Listener, url: str, answers: list[str] | None) -> None:
    allowed = Allowed(ports=frozenset({80, 443, listener.port}))
    given = {} if answers is None else {"resolve": lambda host, port: answers}
    answer = http_post.post(url.format(port=listener.port), b"{}", {}, allowed=allowed, **given)  # type: ignore[arg-type]
    assert not answer.ok and answer.status is None
    assert answer.detail.startswith("refused: ") or answers == []
    assert listener.seen == 0


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("host", ["134744072", "0x08080808", "8.8.2056", "010.8.8.8", "8.8.8.8.8", "0x8.8.8.8"])
def test_a_public_number_in_disguise_is_refused_too(host: str) -> None:
    with pytest.raises(Refused):
        check(f"https://{host}/", Allowed(), lambda name, port: ["8.8.8.8"])


def test_a_port_that_is_not_allowed_is_refused_with_the_next_step() -> None:
    with pytest.raises(Refused, match=r"port 6379 is not allowed \(allowed: 80, 443\); add it with --allow-port 6379"):
        check("http://hook.example:6379/", Allowed(), lambda host, port: [PUBLIC])


def test_a_name_is_resolved_once_and_the_connection_goes_to_that_address(listener: Listener) -> None:
    """DNS rebinding: the second answer would be our own machine, so there must be no second question."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return [PUBLIC if len(asked) == 1 else "127.0.0.1"]

    target = check(f"http://hook.example:{listener.port}/", Allowed(ports=frozenset({listener.port})), rebinding)
    assert (target.address, asked) == (PUBLIC, ["hook.example"])
    allowed = Allowed(frozenset({"hook.example"}), frozenset({listener.port}))
    answer = http_post.post(
        f"http://hook.example:{listener.port}/", b"{}", {}, allowed=allowed, resolve=_then_elsewhere(listener)
    )
    assert answer.status == 200 and listener.seen == 1, "allowed by name: it went to the first answer"


def _then_elsewhere(listener: Listener) -> http_post.Resolver:
    answers = iter([["127.0.0.1"]])
    return lambda host, port: next(answers)  # a second question raises StopIteration


def test_a_redirect_to_the_metadata_service_is_an_answer_and_no_order(listener: Listener) -> None:
    inner = Listener()
    inner.open()
    try:
        where = f"http://169.254.169.254:{inner.port}/latest/meta-data/"
        listener.answer = f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode()
        allowed = Allowed(frozenset({"127.0.0.1"}), frozenset({listener.port, inner.port}))
        answer = http_post.post(f"http://127.0.0.1:{listener.port}/", b"{}", {}, allowed=allowed)
        assert (answer.status, answer.ok, inner.seen) == (302, False, 0)
        listener.answer = (
            f"HTTP/1.1 307 T\r\nLocation: http://127.0.0.1:{inner.port}/\r\nContent-Length: 0\r\n\r\n".encode()
        )
        answer = http_post.post(f"http://127.0.0.1:{listener.port}/", b"{}", {}, allowed=allowed)
        assert (answer.status, answer.ok, inner.seen) == (307, False, 0)
    finally:
        inner.close()


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "0.0.0.0", "::", "224.0.0.1", "::ffff:169.254.1.1"])
def test_what_is_never_a_receiver_is_not_allowed_by_name_either(address: str) -> None:
    assert forbidden(address, by_name=True)
    with pytest.raises(Refused):
        check("https://inside.example/", Allowed(frozenset({"inside.example"})), lambda host, port: [address])


@pytest.mark.parametrize("address", ["10.0.0.8", "127.0.0.1", "fd12::8", "192.168.1.1", "::ffff:10.0.0.8"])
def test_a_receiver_inside_is_allowed_by_its_name_only(address: str) -> None:
    target = check("https://inside.example/x?y=1", Allowed(frozenset({"inside.example"})), lambda host, port: [address])
    assert (target.address, target.host, target.port, target.path) == (address, "inside.example", 443, "/x?y=1")
    with pytest.raises(Refused, match=r"a receiver inside needs --allow-host other\.example"):
        check("https://other.example/", Allowed(frozenset({"inside.example"})), lambda host, port: [address])


@pytest.mark.parametrize("hosts", [frozenset(), frozenset({"meta.example"})])
def test_no_switch_is_named_for_an_address_that_no_switch_opens(hosts: frozenset[str]) -> None:
    with pytest.raises(Refused, match="nothing opens it: give another receiver") as told:
        check("https://meta.example/", Allowed(hosts), lambda host, port: ["169.254.169.254"])
    assert "--allow-host" not in str(told.value)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"])
def test_a_public_address_is_allowed(address: str) -> None:
    assert check("https://hook.example/", Allowed(), lambda host, port: [address]).address == address
