"""Every shell block of README and docs runs here, in one small site, or says above it why not.

A block that cannot run here has a line `<!-- not run: reason -->` directly above its fence; where the reason names a
test, that test exists. Pages whose blocks this file may not mark are listed in ELSEWHERE with what runs them instead.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from agents.cli.config import ensure_keys
from streams import run_note
from streams.contract.kafka import producer_config
from streams.contract.layout import Layout
from streams.contract.records import Record
from streams.contract.topics import DLQ, STATE, TOPICS, topic_of
from tests.fakes import archive as sample_archive

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = frozenset({"sh", "bash", "shell", "console"})
COMMAND = re.compile(r"^(\$ )?(eo|make|python3?|pip|docker|curl|systemctl|[A-Z_]+=\S+ (eo|make)) ")
REASON = re.compile(r"<!-- not run: ((?:(?!-->).)+) -->\n$", re.S)
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.M | re.S)
# (page or its folder, first words of the block) -> what runs it
ELSEWHERE = {
    ("docs/api.md", "eo "): "a gateway runs until it is stopped; tests/unit/gateway calls every route of one",
    ("docs/api.md", "$ curl "): "shows an answer below the call; tests/unit/gateway asserts their shapes",
    ("docs/api.md", "curl "): "needs a running gateway and a key; tests/unit/gateway asserts the answers",
    ("README.md", "make demo"): "tests/e2e/test_demo.py runs the demo; make test is the suite itself",
    ("README.md", "eo sql savings_holdout"): "the same lines stand in docs/user-guide.md and run from there",
    (
        "docs/sources/",
        "eo read",
    ): "reads hardware that is not here; the tests below tests/unit/node read recordings of it",
    (
        "docs/alerts.md",
        "eo alerts",
    ): "needs rules that fired; tests/unit/cli/test_alerts_and_webhooks.py runs these verbs",
    (
        "docs/webhooks.md",
        "eo webhook add",
    ): "needs a receiver in the world; tests/unit/cli/test_alerts_and_webhooks.py runs them against one",
    (
        "docs/sensors.md",
        "eo doctor sensors",
    ): "one line wants a folder of yours; tests/unit/cli/test_doctor_sensors.py runs each form",
    ("CONTRIBUTING.md", "make dev"): "installs hooks into the checkout; .ci/run runs test and lint",
}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    text: str
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for path in PAGES:
        text, page = path.read_text(), str(path.relative_to(ROOT))
        for match in FENCE.finditer(text):
            language, body = match.groups()
            if language in SHELL or (not language and COMMAND.match(body)):
                above = REASON.search(text[: match.start()])
                other = [
                    why
                    for (where, first), why in ELSEWHERE.items()
                    if page.startswith(where) and body.startswith(first)
                ]
                reason = above[1] if above else other[0] if other else None
                yield Block(page, text.count("\n", 0, match.start()) + 1, body, reason)


BLOCKS = list(blocks())
RUN = [block for block in BLOCKS if block.reason is None]


def test_blocks_are_found_and_most_pages_have_one_that_runs() -> None:
    assert len(BLOCKS) > 20 and len(RUN) >= 9
    assert {"docs/user-guide.md", "docs/deployment.md"} <= {block.page for block in RUN}


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason is not None], ids=str)
def test_a_block_that_does_not_run_says_why_and_names_tests_that_exist(block: Block) -> None:
    assert block.reason is not None and len(block.reason) > 15
    for name in re.findall(r"(?<![\w/])(?:tests|docs|\.ci)/[\w/.-]+\w", block.reason):
        assert (ROOT / name).exists(), f"{block}: {name} does not exist"


@pytest.fixture(scope="module")
def site(kafka: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A broker, a node that has reported, a sample archive, a process with metrics: enough for every runnable block."""
    from agents.cli.topic_admin import apply
    from tests.conftest import PARTITIONS, KafkaForTests

    assert isinstance(kafka, KafkaForTests)
    kafka.healthy()
    apply(kafka.bootstrap, partitions=PARTITIONS)
    layout, cluster = Layout(tmp_path_factory.mktemp("docs")), f"docs-{os.getpid()}"
    ensure_keys(layout)
    sample_archive.build(layout.archive)
    note = run_note.write(
        layout, "agent-sim-001", role="agent", node="sim-001", metrics="http://127.0.0.1:9465/metrics"
    )
    report(kafka.bootstrap, cluster)
    (layout.root / "bin").mkdir()
    (layout.root / "bin" / "eo").write_text(f'#!/bin/sh\nexec {sys.executable} -m agents "$@"\n')
    (layout.root / "bin" / "eo").chmod(0o755)
    yield {
        **{name: value for name, value in os.environ.items() if not name.startswith(("EO_", "OTEL_"))},
        "PATH": f"{layout.root / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "EO_DATA_DIR": str(layout.root),
        "EO_CLUSTER": cluster,
        "KAFKA_BOOTSTRAP": kafka.bootstrap,
        "EO_NODE_METRICS_PORT": "-1",
    }
    run_note.forget(note)


def report(bootstrap: str, cluster: str) -> None:
    """One node's newest features, as the stream would have written them a moment ago."""
    from confluent_kafka import Producer

    from streams.contract import codec
    from tests.unit.jobs.support import features

    record: Record = msgspec.structs.replace(features("sim-001", 1, ts_ns=time.time_ns()), cluster=cluster)
    producer = Producer(producer_config(bootstrap, "docs"))
    producer.produce(topic_of(type(record)).name, codec.encode(record), key=b"sim-001")
    assert producer.flush(20) == 0


@pytest.mark.e2e
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, site: dict[str, str]) -> None:
    script = re.sub(r"^\$ ", "", block.text, flags=re.M)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=site, cwd=ROOT, capture_output=True, text=True, timeout=180
    )
    told = f"{block} fails; mend it, or say above its fence `<!-- not run: reason -->`"
    assert done.returncode == 0, f"{told}\n{script}\n{done.stdout}\n{done.stderr}"


# --- tables and links ---


def test_the_table_of_kafkas_rights_is_the_contracts() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    rows = {cells[1].strip(): cells for line in page.splitlines() if len(cells := line.split("|")) == 7}
    users = {name for topic in TOPICS for name in topic.writers}
    assert users | {"archive"} <= rows.keys()
    for user in users:
        writes = {topic.name for topic in TOPICS if user in topic.writers}
        reads = {topic.name for topic in TOPICS if user in topic.readers}
        assert set(re.findall(r"energy\.[a-z.]+v1", rows[user][2])) == writes, user
        if user != "archive":
            assert set(re.findall(r"energy\.[a-z.]+v1", rows[user][3])) == reads, user
    all_but = {topic.name for topic in TOPICS if "archive" not in topic.readers}
    assert set(re.findall(r"energy\.[a-z.]+v1", rows["archive"][3])) == all_but == {STATE.name, DLQ.name}


def test_every_link_to_a_file_of_ours_leads_somewhere() -> None:
    broken = []
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if "://" not in target and not (path.parent / target).exists():
                broken.append(f"{path.relative_to(ROOT)}: {target}")
    assert broken == []
