"""Addresses and waiting: each wrong one gets a sentence with the value, the reason and the next step."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from agents.cli.base import USAGE, EoError
from agents.cli.brokers import ready


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port that accepts and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_addresses() -> None:
    assert ready.addresses("a:1, b.example:65535") == [("a", 1), ("b.example", 65535)]
    assert ready.addresses("[::1]:9092") == [("::1", 9092)]


@pytest.mark.parametrize("wrong", ["", "localhost", "host:", ":9092", "host:0", "host:65536", "host:9o92", "a:1,b"])
def test_a_wrong_address_is_refused_with_its_form(wrong: str) -> None:
    with pytest.raises(EoError) as told:
        ready.addresses(wrong)
    assert told.value.code == USAGE
    assert f"the broker address {wrong.split(',')[-1]!r} is not host:port with a port of 1 to 65535" in str(told.value)
    assert "run `eo broker up`" in str(told.value)


def test_reasons_for_no_connection(closed_port: int, deaf_port: int) -> None:
    assert ready.refusal("127.0.0.1", closed_port) == "connection refused: nothing listens there"
    assert ready.refusal("name.invalid", 9092) == "the name does not resolve"
    assert ready.refusal("127.0.0.1", deaf_port) is None


def test_no_broker_at_the_address(closed_port: int) -> None:
    with pytest.raises(EoError) as told:
        ready.listeners(f"127.0.0.1:{closed_port}")
    assert str(told.value) == (
        f"no broker answers at 127.0.0.1:{closed_port} (127.0.0.1:{closed_port}: connection refused: nothing listens "
        "there); start that one, correct KAFKA_BOOTSTRAP, or unset it and run `eo broker up`."
    )


def test_something_that_is_no_broker(deaf_port: int) -> None:
    with pytest.raises(EoError, match=f"something listens at 127.0.0.1:{deaf_port} but gives no Kafka metadata"):
        ready.listeners(f"127.0.0.1:{deaf_port}", timeout_s=0.5)


def test_waiting_ends_with_the_bound_and_the_reason(closed_port: int) -> None:
    with pytest.raises(EoError) as told:
        ready.wait_ready(f"127.0.0.1:{closed_port}", 0.0, transactions=False)
    assert f"127.0.0.1:{closed_port} is not ready after 0 s (connection refused" in str(told.value)
    assert "`eo broker down` and `eo broker up`" in str(told.value)


def test_waiting_ends_at_once_when_the_process_has_died(closed_port: int) -> None:
    with pytest.raises(EoError, match=r"^it died of X\.$"):
        ready.wait_ready(f"127.0.0.1:{closed_port}", 60, transactions=False, died=lambda: "it died of X.")


def test_a_broker_that_comes_late_is_waited_for(closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "group_coordinator", lambda *_: None)
    opened = threading.Event()

    def serve() -> None:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", closed_port))
            listener.listen()
            opened.set()
            listener.accept()[0].close()

    late = threading.Timer(0.2, serve)
    late.start()
    ready.wait_ready(f"127.0.0.1:{closed_port}", 10, transactions=False)
    late.join()
    assert opened.is_set()
