"""A node agent with a file for a broker, run as a process so that it can be killed anywhere.

argv: folder, samples. It publishes everything that is left from before, takes the samples, handles a command after
every fifth, and notes each promise in journal.txt once it was made.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from agents.node.agent import NodeAgent
from agents.node.control_loop import ControlLoop
from agents.node.publisher import EventPublisher, SpoolPublisher
from agents.node.sources.twin import TwinSource
from agents.node.spool import Spool
from tests.fakes.kafka_producer import FileProducer
from tests.fakes.sources import FakeBank, FakeCapper, desired

PUMP_EVERY = 3
COMMAND_EVERY = 5


class Driver:
    """The main loop of a process, at full speed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._journal = os.open(folder / "journal.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        # No pause between syncs: each pump must pass every failpoint of the spool.
        self.spool = Spool(folder / "telemetry", max_bytes=1 << 20, segment_bytes=8192, fsync_interval_s=0.0)
        self.acks = Spool(folder / "applied", max_bytes=1 << 20, segment_bytes=8192, fsync_interval_s=0.0)
        producer = FileProducer(folder / "broker.jsonl")
        self.telemetry, self.events = SpoolPublisher(self.spool, producer), EventPublisher(self.acks, producer)
        control = ControlLoop("n1", FakeCapper())
        self.agent = NodeAgent("c", "n1", [TwinSource(FakeBank(), 0)], self.spool, control, events=self.events)

    def note(self, *words: object) -> None:
        os.write(self._journal, (" ".join(map(str, words)) + "\n").encode())

    def command(self, seq: int) -> None:
        # The topic is compacted: after a restart the newest command comes again.
        (self._folder / "command").write_text(str(seq))
        self.agent.command(desired(seq), 0)
        self.note("ack", seq)

    def run(self, samples: int) -> None:
        last = self._folder / "command"
        seq = int(last.read_text()) if last.exists() else 0
        if seq:
            self.command(seq)
        for count in range(1, samples + 1):
            record = self.agent.sample(time.time_ns())
            self.note("sample", record.boot_id, record.seq)
            if count % COMMAND_EVERY == 0:
                seq += 1
                self.command(seq)
            if count % PUMP_EVERY == 0:
                self.telemetry.pump()
                self.events.pump()
        if not (self.events.drain(20) and self.telemetry.drain(20)):
            raise SystemExit("the broker did not take everything")
        self.note("lost", self.spool.lost_total + self.acks.lost_total)
        self.spool.close()
        self.acks.close()


if __name__ == "__main__":
    Driver(Path(sys.argv[1])).run(int(sys.argv[2]))
