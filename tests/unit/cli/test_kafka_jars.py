"""Java and Maven: found, too old, missing, failing; jars are fetched once; the log's reason becomes one sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents.cli.base import EoError
from agents.cli.brokers import kafka_jars, processes
from agents.cli.brokers.unavailable import Unavailable
from tests.unit.cli import programs

GOOD_MAVEN = """for word in "$@"; do
  case "$word" in -DoutputDirectory=*) touch "${word#*=}/kafka_2.13-4.4.0.jar";; esac
done
echo x >> "$0.calls"
"""


def _env(tmp_path: Path) -> dict[str, str]:
    return {"PATH": str(tmp_path / "bin"), "EO_CACHE_DIR": str(tmp_path / "cache"), "HOME": str(tmp_path)}


def test_java_17_and_later_are_taken(tmp_path: Path) -> None:
    for version in ("17.0.15", "21", "25.0.1"):
        assert kafka_jars.java({"PATH": str(programs.java(tmp_path / version, version).parent)}).endswith("java")


def test_java_home_wins_over_the_path(tmp_path: Path) -> None:
    programs.java(tmp_path / "old", "11.0.2")
    home = programs.java(tmp_path / "home" / "bin", "21.0.1")
    assert kafka_jars.java({"PATH": str(tmp_path / "old"), "JAVA_HOME": str(tmp_path / "home")}) == str(home)


@pytest.mark.parametrize(("version", "shown"), [("11.0.2", "11"), ("1.8.0_402", "8"), ("odd", "unknown")])
def test_an_old_java_is_named_with_the_bound(tmp_path: Path, version: str, shown: str) -> None:
    path = programs.java(tmp_path, version)
    with pytest.raises(Unavailable) as told:
        kafka_jars.java({"PATH": str(tmp_path)})
    assert str(told.value) == f"{path} is version {shown} and Kafka needs 17 or later; install a newer JDK"


def test_no_java_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"^no `java` on the PATH; install a JDK 17 or later$"):
        kafka_jars.java({"PATH": str(tmp_path)})
    with pytest.raises(Unavailable, match=f"^JAVA_HOME={tmp_path} holds no bin/java"):
        kafka_jars.java({"PATH": str(tmp_path), "JAVA_HOME": str(tmp_path)})


def test_no_maven_and_no_jars_is_named_with_the_cache(tmp_path: Path) -> None:
    env = _env(tmp_path)
    with pytest.raises(Unavailable) as told:
        kafka_jars.jars(env)
    cache = kafka_jars.cache_folder(env)
    assert str(told.value) == f"no `mvn` on the PATH and no Kafka jars in {cache} yet; install Maven 3.6 or later"


def test_jars_are_fetched_once_and_then_need_no_maven(tmp_path: Path) -> None:
    env = _env(tmp_path)
    maven = programs.program(tmp_path / "bin", "mvn", GOOD_MAVEN)
    folder = kafka_jars.jars(env)
    assert [path.name for path in folder.glob("*.jar")] == ["kafka_2.13-4.4.0.jar"]
    assert kafka_jars.jars(env) == folder
    assert (tmp_path / "bin" / "mvn.calls").read_text().count("x") == 1
    maven.unlink()
    assert kafka_jars.jars(env) == folder


def test_a_failing_maven_says_why_and_leaves_nothing_half(tmp_path: Path) -> None:
    env = _env(tmp_path)
    programs.program(tmp_path / "bin", "mvn", "echo '[ERROR] Could not transfer artifact org.apache.kafka'; exit 1")
    with pytest.raises(
        Unavailable, match=r"^Maven could not fetch Kafka's jars: \[ERROR\] Could not transfer artifact"
    ):
        kafka_jars.jars(env)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupted_fetch_is_done_again(tmp_path: Path) -> None:
    env = _env(tmp_path)
    programs.program(tmp_path / "bin", "mvn", GOOD_MAVEN)
    half = kafka_jars.cache_folder(env)
    half.mkdir(parents=True)
    (half / "kafka_2.13-4.4.0.jar").write_text("torn")
    assert (kafka_jars.jars(env) / "kafka_2.13-4.4.0.jar").read_text() == ""


def _node(tmp_path: Path, java: str = "java") -> kafka_jars.Node:
    (tmp_path / "broker").mkdir()
    return kafka_jars.Node(tmp_path / "broker", java, tmp_path)


def test_properties_are_filled_in_and_ports_remembered(tmp_path: Path) -> None:
    node = _node(tmp_path)
    port, controller = node.ports()
    text = node.configure(port, controller).read_text()
    assert f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n" in text
    assert f"log.dirs={node.store}\n" in text
    assert "$" not in text and "0.0.0.0" not in text
    assert port != controller
    assert node.ports() == (port, controller)


def test_a_remembered_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    import socket

    node = _node(tmp_path)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        node.configure(taken, processes.free_port())
        assert node.ports()[0] != taken


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        ("java.net.BindException: Address already in use", kafka_jars.PORT_TAKEN),
        ("Failed to acquire lock on file .lock", "is in use by another Kafka process; stop that one first."),
        ("java.io.IOException: No space left on device", "is full; free space there and run `eo broker up` again."),
        ("Could not reserve enough space for object heap", "Java could not get its 384 MB of memory for Kafka"),
        ("AccessDeniedException: Permission denied", "Kafka may not write to"),
        ("2026-01-01 ERROR Fatal: odd thing", "Kafka ended during its start: 2026-01-01 ERROR Fatal: odd thing;"),
        ("", "Kafka ended during its start: no reason given; its whole log is"),
    ],
)
def test_the_logs_reason_becomes_one_sentence(tmp_path: Path, log: str, sentence: str) -> None:
    node = _node(tmp_path)
    node.out.write_text(f"noise\n{log}\nnoise\n")
    told = node.ending()
    assert sentence in told
    assert re.search(r"\.\)?$", told)


def test_a_failing_format_says_why_and_leaves_no_store(tmp_path: Path) -> None:
    java = programs.program(tmp_path / "bin", "java", "echo 'Read-only file system' >&2; exit 1")
    node = _node(tmp_path, str(java))
    with pytest.raises(EoError, match=r"^Kafka could not format .*: Read-only file system; check that the disk"):
        node.format()
    assert not node.store.exists()


def test_cluster_ids_are_22_characters_that_no_option_parser_mistakes() -> None:
    ids = {kafka_jars._cluster_id() for _ in range(500)}
    assert len(ids) == 500
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{21}", one) for one in ids)
