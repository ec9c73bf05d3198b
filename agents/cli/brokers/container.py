"""Apache Kafka in a container: only where an engine's daemon answers. The store is a named volume, which stays."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from agents.cli.base import EoError
from agents.cli.brokers.kafka_jars import template_folder
from agents.cli.brokers.unavailable import Unavailable

ENGINES: Final = ("docker", "podman")
ASK_S: Final = 10
PULL_S: Final = 600
STORE: Final = "/var/lib/kafka/data"


def _run(argv: Sequence[str], timeout_s: float = ASK_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=timeout_s, stdin=subprocess.DEVNULL
    )


def engine(env: Mapping[str, str] = os.environ) -> str:
    """Path of the first engine whose daemon answers; raises Unavailable with each one's reason."""
    reasons = []
    for name in ENGINES:
        if (path := shutil.which(name, path=env.get("PATH"))) is None:
            reasons.append(f"no `{name}` on the PATH")
            continue
        try:
            asked = _run([path, "ps", "--quiet"])
        except (subprocess.TimeoutExpired, OSError) as error:
            reasons.append(f"`{name} ps` gives no answer ({type(error).__name__})")
            continue
        if asked.returncode == 0:
            return path
        reasons.append(f"`{name}` is installed but its daemon does not answer")
    raise Unavailable("; ".join(reasons))


def image(env: Mapping[str, str] = os.environ) -> str:
    """EO_BROKER_IMAGE, else the official image of the version that pom.xml names."""
    version = re.search(r"<artifactId>kafka_2\.13</artifactId>\s*<version>([^<]+)", _pom())
    return env.get("EO_BROKER_IMAGE") or f"apache/kafka:{version[1] if version else '4.4.0'}"


def _pom() -> str:
    return (template_folder() / "pom.xml").read_text()


def settings(port: int) -> dict[str, str]:
    """server.properties in the image's own form: KAFKA_<NAME>; listeners listen inside, advertise the loopback port."""
    lines = (template_folder() / "server.properties").read_text().splitlines()
    pairs = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    pairs |= {
        "listeners": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": "1@localhost:9093",
        "log.dirs": STORE,
    }
    named = {"KAFKA_" + name.upper().replace(".", "_"): value for name, value in pairs.items()}
    return {**named, "KAFKA_HEAP_OPTS": "-Xms256m -Xmx384m"}


def start(path: str, folder: Path, port: int, env: Mapping[str, str] = os.environ) -> str:
    """Starts the container and returns its name, one per data folder; raises EoError with the engine's reason."""
    name = "eo-broker-" + hashlib.sha256(str(folder).encode()).hexdigest()[:10]
    _run([path, "rm", "--force", name], 60)  # a stopped one of an earlier run would keep the name
    argv = [
        path,
        "run",
        "--detach",
        "--name",
        name,
        "--publish",
        f"127.0.0.1:{port}:9092",
        "--volume",
        f"{name}:{STORE}",
    ]
    for key, value in settings(port).items():
        argv += ["--env", f"{key}={value}"]
    try:
        done = _run([*argv, image(env)], PULL_S)
    except subprocess.TimeoutExpired as error:
        raise EoError(
            f"{Path(path).name} did not start {image(env)} within {PULL_S} s; pull the image first, or install "
            "a JDK 17 or later and Maven."
        ) from error
    if done.returncode != 0:
        told = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        raise EoError(f"{Path(path).name} could not start {image(env)}: {told}; EO_BROKER_IMAGE names another image.")
    return name


def running(path: str, name: str) -> bool:
    """Whether the container runs; an engine that does not answer runs nothing."""
    try:
        asked = _run([path, "inspect", "--format", "{{.State.Running}}", name])
    except (subprocess.TimeoutExpired, OSError):
        return False
    return asked.returncode == 0 and asked.stdout.strip() == "true"


def stop(path: str, name: str) -> bool:
    """Ends and removes the container, keeps its volume; returns whether it is gone."""
    _run([path, "stop", "--time", "20", name], 40)
    _run([path, "rm", "--force", name], 40)
    return not running(path, name)
