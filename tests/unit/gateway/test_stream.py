"""/v1/stream: events as they happen, bounded queues, what a client that comes back is told."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import uvicorn

from agents.gateway.push import QUEUE, REMEMBERED, Client, Hub
from agents.gateway.routes.stream import chunk
from agents.gateway.run import listen
from tests.fakes.gateway_rig import Rig, alert, applied


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def joined(hub: Hub, loop: asyncio.AbstractEventLoop, last_id: str | None = None) -> Client:
    client = hub.join(loop, last_id)
    assert client is not None
    return client


def numbers(hub: Hub, client: Client) -> tuple[int, list[int]]:
    dropped, events = hub.take(client)
    return dropped, [event.number for event in events]


def test_a_slow_client_loses_its_oldest_events_and_is_told_how_many(loop: asyncio.AbstractEventLoop) -> None:
    hub = Hub("r", most_clients=4)
    slow, quick = joined(hub, loop), joined(hub, loop)
    for number in range(QUEUE + 10):
        hub.publish("tick", {"n": number})
        hub.take(quick)
    dropped, seen = numbers(hub, slow)
    assert (dropped, len(seen), seen[0], seen[-1]) == (10, QUEUE, 11, QUEUE + 10)
    hub.publish("tick", {})
    assert numbers(hub, quick) == (0, [QUEUE + 11])


def test_a_client_that_comes_back_gets_what_it_missed(loop: asyncio.AbstractEventLoop) -> None:
    hub = Hub("r", most_clients=4)
    for number in range(20):
        hub.publish("alert", {"n": number})
    assert numbers(hub, joined(hub, loop, "r-17")) == (0, [18, 19, 20])
    assert numbers(hub, joined(hub, loop, "r-20")) == (0, [])


@pytest.mark.parametrize("last_id", ["other-5", "r-99", "r-", "", "r--1", "x" * 80, "r-1e3"])
def test_an_id_of_another_run_or_rubbish_is_answered_with_an_unknown_gap(
    loop: asyncio.AbstractEventLoop, last_id: str
) -> None:
    hub = Hub("r", most_clients=4)
    hub.publish("alert", {})
    client = joined(hub, loop, last_id)
    assert b'data: {"events_missed":null}' in chunk(hub, client)


def test_what_is_no_longer_remembered_is_counted(loop: asyncio.AbstractEventLoop) -> None:
    hub = Hub("r", most_clients=4)
    for _ in range(REMEMBERED + 7):
        hub.publish("tick", {})
    client = joined(hub, loop, "r-3")
    dropped, seen = numbers(hub, client)
    assert dropped == 4 + REMEMBERED - QUEUE and len(seen) == QUEUE


def test_too_many_clients_are_turned_away_and_leaving_frees_a_place(loop: asyncio.AbstractEventLoop) -> None:
    hub = Hub("r", most_clients=1)
    first = joined(hub, loop)
    assert hub.join(loop, None) is None
    hub.leave(first)
    hub.leave(first)
    assert hub.join(loop, None) is not None


class Live:
    """The application behind a real server on a free loopback port."""

    def __init__(self, rig: Rig) -> None:
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(rig.app, log_config=None, timeout_graceful_shutdown=1)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[Rig, Live]]:
    rig = Rig(tmp_path, {"stream_clients": 1}).live(seconds=2)
    server = Live(rig)
    yield rig, server
    server.close()
    assert not server.thread.is_alive()


def events(lines: Iterator[str]) -> Iterator[tuple[str, str, object]]:
    """(event, id, data) of a stream; comments are passed over."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif not line and "data" in fields:
            yield fields["event"], fields.get("id", ""), json.loads(fields["data"])
            fields = {}


def test_a_revoked_key_ends_its_stream(live: tuple[Rig, Live]) -> None:
    rig, server = live
    headers = rig.key("read")
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        with http.stream("GET", "/v1/stream", headers=headers) as response:
            lines = response.iter_lines()
            next(lines)
            rig.context.keys.revoke(rig.context.keys.all()[0].id, now_ns=rig.clock.wall_ns())
            rig.fold(alert(0, rig.clock.wall_ns()))
            assert not any(line.startswith("id: r-9999") for line in lines)  # it ends by itself
        assert http.get("/v1/nodes", headers=headers).status_code == 401


def test_a_real_client_sees_commands_and_alerts_and_goes_on_where_it_was(live: tuple[Rig, Live]) -> None:
    rig, server = live
    headers = rig.key("read")
    with httpx2.Client(base_url=server.url, timeout=20) as http:
        with http.stream("GET", "/v1/stream", headers=headers) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            lines = response.iter_lines()
            assert next(lines).startswith(": ")  # the greeting: from here on it listens
            rig.fold(applied(0, rig.clock.wall_ns()))
            seen = events(lines)
            kinds = []
            while "command" not in kinds:
                kind, last_id, data = next(seen)
                kinds.append(kind)
            assert isinstance(data, dict) and data["statuses"] == {"applied": 8}
            second = http.get("/v1/stream", headers=headers)
            assert second.status_code == 429 and "1 clients listen already (1 may)" in second.json()["detail"]
        rig.fold(alert(1, rig.clock.wall_ns()))
        deadline = threading.Event()
        while rig.context.hub.clients or rig.context.state.new:
            assert not deadline.wait(0.05)
        with http.stream("GET", "/v1/stream", headers={**headers, "Last-Event-ID": last_id}) as response:
            found = events(response.iter_lines())
            # ticks may come between; nothing is waited for once it is there, for no tick need follow
            assert any(next(found)[0] == "alert" for _ in range(3))
