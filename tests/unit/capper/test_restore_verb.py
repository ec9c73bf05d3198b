"""`eo restore` against cappers that do not behave."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from agents.cli import restore
from agents.cli.base import EoError


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(0.05)
    with ours, theirs:
        yield ours, theirs


def test_a_silent_capper_is_not_waited_for_without_end(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(EoError, match="does not answer within 10 s; stop it"):
        restore._request(pair[0], {"op": "status"})


def test_a_capper_that_hangs_up_is_told(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(EoError, match="the capper hung up"):
        restore._request(pair[0], {"op": "status"})


def test_a_capper_that_says_no_is_quoted(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b'{"ok":false,"error":"user 5 may not talk to this capper"}\n')
    with pytest.raises(EoError, match="the capper refuses: user 5 may not talk"):
        restore._request(pair[0], {"op": "status"})
