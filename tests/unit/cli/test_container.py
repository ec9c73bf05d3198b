"""A container engine is used only when its daemon answers; what it is asked to run listens on loopback alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.cli.base import EoError
from agents.cli.brokers import container
from agents.cli.brokers.unavailable import Unavailable
from tests.unit.cli import programs


def test_an_engine_without_a_daemon_is_no_engine(tmp_path: Path) -> None:
    programs.engine(tmp_path, "docker", daemon=False)
    with pytest.raises(Unavailable) as told:
        container.engine({"PATH": str(tmp_path)})
    assert str(told.value) == "`docker` is installed but its daemon does not answer; no `podman` on the PATH"


def test_podman_is_taken_where_docker_does_not_answer(tmp_path: Path) -> None:
    programs.engine(tmp_path, "docker", daemon=False)
    podman = programs.engine(tmp_path, "podman")
    assert container.engine({"PATH": str(tmp_path)}) == str(podman)


def test_start_run_and_stop(tmp_path: Path) -> None:
    docker = str(programs.engine(tmp_path, "docker"))
    name = container.start(docker, tmp_path / "broker", 19092, {})
    assert container.running(docker, name)
    call = next(line for line in (tmp_path / "calls").read_text().splitlines() if line.startswith("run"))
    assert "--publish 127.0.0.1:19092:9092" in call
    assert "KAFKA_ADVERTISED_LISTENERS=PLAINTEXT://127.0.0.1:19092" in call
    assert "KAFKA_AUTO_CREATE_TOPICS_ENABLE=false" in call
    assert call.endswith("apache/kafka:4.4.0")
    assert "$" not in call
    assert container.stop(docker, name)
    assert not container.running(docker, name)


def test_the_image_is_the_users_choice() -> None:
    assert container.image({"EO_BROKER_IMAGE": "mirror.example/kafka:4.4.0"}) == "mirror.example/kafka:4.4.0"


def test_a_refused_start_gives_the_engines_reason(tmp_path: Path) -> None:
    docker = str(programs.engine(tmp_path, "docker", run="echo 'pull access denied' >&2; exit 125"))
    with pytest.raises(EoError) as told:
        container.start(docker, tmp_path, 19092, {})
    assert str(told.value) == (
        "docker could not start apache/kafka:4.4.0: pull access denied; EO_BROKER_IMAGE names another image."
    )


def test_an_engine_that_has_gone_runs_nothing(tmp_path: Path) -> None:
    assert not container.running(str(tmp_path / "docker"), "eo-broker-x")
