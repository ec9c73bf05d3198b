"""The archive job in a process that can be killed anywhere: topics from the fake, commits in a file.

argv: folder, seconds. Everything up to that many seconds of two nodes is archived, from the last commit on.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from streams.sinks.parquet import write_text
from tests.fakes import archive as fake
from tests.fakes.archive_rig import Rig

SENT_TWICE = 7  # every seventh message was sent again by its node


def records(seconds: int) -> list[fake.r.Record]:
    """What the broker holds after so many seconds."""
    out: list[fake.r.Record] = []
    for second in range(seconds):
        out += [fake.telemetry(node, second) for node in fake.NODES]
        out += [fake.features(node, second) for node in fake.NODES]
        if second % SENT_TWICE == 0:
            out += [fake.telemetry(node, second) for node in fake.NODES]
    return out


def main() -> None:
    folder, seconds = Path(sys.argv[1]), int(sys.argv[2])
    rig = Rig(folder / "data", flush_s=1.0)
    rig.send(records(seconds))
    commits = folder / "commits.json"
    if commits.exists():
        rig.committed = {(topic, 0): offset for topic, offset in json.loads(commits.read_text()).items()}
    rig.start()
    for _ in range(4):  # several flushes of a run, with a commit after each
        rig.feed(16, most=4)
        rig.settle()
        write_text(commits, json.dumps({topic: offset for (topic, _), offset in rig.committed.items()}))
    rig.feed(16)
    rig.settle()
    write_text(commits, json.dumps({topic: offset for (topic, _), offset in rig.committed.items()}))


if __name__ == "__main__":
    main()
