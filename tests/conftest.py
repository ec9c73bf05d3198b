"""One real Kafka broker per test session, in a folder of its own, started and ended by the product's own code."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from agents.cli import brokers
from agents.cli.base import EoError
from agents.cli.brokers import lifecycle, processes, ready
from agents.cli.topic_admin import apply
from streams.contract.layout import Layout

PARTITIONS = 4


class KafkaForTests:
    """A broker that tests may pause, kill and start again; it keeps its address and its store."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.info = brokers.up(layout, kind="kafka-jars", env=_no_cluster())

    @property
    def bootstrap(self) -> str:
        return self.info.bootstrap

    @property
    def pid(self) -> int:
        assert self.info.pid is not None
        return self.info.pid

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nobody answers, as with a broker in a long pause."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, and returns when the process is gone."""
        os.kill(self.pid, signal.SIGKILL)
        assert processes.wait_until(lambda: lifecycle.own(self.layout) is None, 10)

    def restart(self) -> None:
        """Starts it again (after kill, or in place of what runs) at the same address; returns when it works."""
        before = self.bootstrap
        brokers.down(self.layout)
        self.info = brokers.up(self.layout, kind="kafka-jars", env=_no_cluster())
        assert self.bootstrap == before, "another program took the broker's port during the test"

    def healthy(self) -> None:
        """What the next test may count on: running, not paused, coordinators answering."""
        if lifecycle.own(self.layout) is None:
            self.restart()
        self.resume()
        ready.wait_ready(self.bootstrap, 60, transactions=True)


def _no_cluster() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "KAFKA_BOOTSTRAP"}


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaForTests]:
    """The session's broker. Without a JDK 17+ the tests that need it are skipped, unless EO_TEST_KAFKA=required."""
    layout = Layout(tmp_path_factory.mktemp("kafka"))
    try:
        broker = KafkaForTests(layout)
    except EoError as error:
        if os.environ.get("EO_TEST_KAFKA") == "required" or "no broker can be started here" not in str(error):
            raise
        pytest.skip(str(error))
    try:
        yield broker
    finally:
        if lifecycle.own(layout) is not None:
            broker.resume()
        brokers.down(layout)


@pytest.fixture
def topics(kafka: KafkaForTests) -> str:
    """The contract's topics, 4 partitions each (intents 1), on a healthy broker; returns the bootstrap address."""
    kafka.healthy()
    apply(kafka.bootstrap, partitions=PARTITIONS)
    return kafka.bootstrap
