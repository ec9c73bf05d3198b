"""Apache Kafka from Maven jars: find Java and Maven, keep the jars in a cache, format a store once, start one node."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agents.cli.base import EoError
from agents.cli.brokers import processes
from agents.cli.brokers.store import heal
from agents.cli.brokers.unavailable import Unavailable

MIN_JAVA: Final = 17
RESOLVE_S: Final = 600  # a cold download of 43 MB over a slow line
FORMAT_S: Final = 60
COMPLETE: Final = ".complete"
# 340 MB resident; the first compiler tier starts fastest and is enough for one node.
HEAP: Final = ("-Xms256m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def template_folder() -> Path:
    """compose/broker of the checkout, else the copy that the wheel installs."""
    checkout = Path(__file__).resolve().parents[3] / "compose" / "broker"
    installed = Path(sys.prefix) / "share" / "energy-orchestrator" / "compose" / "broker"
    return checkout if checkout.is_dir() else installed


def java(env: Mapping[str, str] = os.environ) -> str:
    """The java command, JAVA_HOME first; raises Unavailable when there is none of version 17 or later."""
    home = env.get("JAVA_HOME")
    command = str(Path(home) / "bin" / "java") if home else shutil.which("java", path=env.get("PATH"))
    if not command or not Path(command).exists():
        where = f"JAVA_HOME={home} holds no bin/java" if home else "no `java` on the PATH"
        raise Unavailable(f"{where}; install a JDK {MIN_JAVA} or later")
    told = subprocess.run([command, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', told)
    if version is None or int(version[1]) < MIN_JAVA:
        found = version[1] if version else "unknown"
        raise Unavailable(f"{command} is version {found} and Kafka needs {MIN_JAVA} or later; install a newer JDK")
    return command


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """Where the jars of this pom.xml are kept: EO_CACHE_DIR or ~/.cache/energy-orchestrator."""
    base = Path(env["EO_CACHE_DIR"]) if env.get("EO_CACHE_DIR") else Path.home() / ".cache" / "energy-orchestrator"
    digest = hashlib.sha256((template_folder() / "pom.xml").read_bytes()).hexdigest()[:12]
    return base / f"kafka-{digest}"


def jars(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of jars, resolved with Maven the first time; raises Unavailable when that cannot be done."""
    target = cache_folder(env)
    if (target / COMPLETE).exists():
        return target
    maven = shutil.which("mvn", path=env.get("PATH"))
    if maven is None:
        raise Unavailable(f"no `mvn` on the PATH and no Kafka jars in {target} yet; install Maven 3.6 or later")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=target.name, dir=target.parent))
    try:
        _resolve(maven, fresh, env)
        (fresh / COMPLETE).touch()
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError):  # another process was first: its jars are the same
            fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _resolve(maven: str, folder: Path, env: Mapping[str, str]) -> None:
    # --fail-never is not used and no mirror is set: the user's own settings.xml decides where jars come from.
    argv = [maven, "-q", "-B", "-f", str(template_folder() / "pom.xml"), "dependency:copy-dependencies"]
    try:
        done = subprocess.run(
            [*argv, f"-DoutputDirectory={folder}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=RESOLVE_S,
            env=dict(env),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"Maven did not fetch Kafka's jars within {RESOLVE_S} s; check the network") from error
    if done.returncode != 0 or not any(folder.glob("kafka_*.jar")):
        lines = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or ["no reason given"]
        raise Unavailable(f"Maven could not fetch Kafka's jars: {lines[0].strip()[:300]}")


@dataclass(frozen=True, slots=True)
class Node:
    """One Kafka node of a data folder: its files and the two commands that touch them."""

    folder: Path
    java: str
    jars: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def properties(self) -> Path:
        return self.folder / "server.properties"

    @property
    def log(self) -> Path:
        return self.folder / "kafka.log"

    @property
    def out(self) -> Path:
        return self.folder / "broker.out"

    def _argv(self, main: str, *args: str) -> list[str]:
        logging = [f"-Dlog4j2.configurationFile={template_folder() / 'log4j2.properties'}", f"-Deo.log={self.log}"]
        return [self.java, *HEAP, *logging, "-cp", f"{self.jars}/*", main, *args]

    def configure(self, port: int, controller_port: int, store: Path | None = None) -> Path:
        """Fills in server.properties and returns its path; for another store, a file beside that store."""
        template = string.Template((template_folder() / "server.properties").read_text())
        target = self.properties if store is None else store.with_suffix(".properties")
        values = {"port": port, "controller_port": controller_port, "store": store or self.store}
        lines = template.template.splitlines()
        text = string.Template("\n".join(line for line in lines if not line.startswith("#"))).substitute(values)
        target.write_text(text + "\n")
        return target

    def ports(self) -> tuple[int, int]:
        """The ports of the last start where still free, so that clients find the broker again; else new ones."""
        text = self.properties.read_text() if self.properties.exists() else ""
        before = re.search(r"PLAINTEXT://127\.0\.0\.1:(\d+),CONTROLLER://127\.0\.0\.1:(\d+)", text)
        port = processes.free_port(int(before[1]) if before else None)
        controller = processes.free_port(int(before[2]) if before else None)
        while controller == port:
            controller = processes.free_port()
        return port, controller

    def format(self) -> None:
        """Formats the store when there is none: in a folder beside it, renamed when complete, so never half."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not heal(self.store):
            return
        fresh = self.folder / "store.new"
        shutil.rmtree(fresh, ignore_errors=True)
        properties = self.configure(1, 2, fresh)
        argv = self._argv(
            "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(properties), "--ignore-formatted"
        )
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=FORMAT_S)
        properties.unlink()
        if done.returncode != 0:
            told = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise EoError(
                f"Kafka could not format {fresh}: {told[0][:300]}; check that the disk is writable and not full."
            )
        fresh.rename(self.store)

    def start(self, port: int, controller_port: int) -> int:
        """Starts the node and returns its pid; readiness is the caller's question."""
        self.configure(port, controller_port)
        self.log.unlink(missing_ok=True)
        return processes.spawn(self._argv("kafka.Kafka", str(self.properties)), self.out)

    def ending(self) -> str:
        """Why the node ended during its start, from its own log, as one sentence."""
        text = "".join(path.read_text(errors="replace") for path in (self.out, self.log) if path.exists())
        for pattern, sentence in ENDINGS:
            if pattern in text:
                return sentence.format(store=self.store, log=self.log)
        told = [line for line in text.splitlines() if " ERROR " in line or " FATAL " in line or "rror" in line]
        return f"Kafka ended during its start: {(told or ['no reason given'])[0][:300]}; its whole log is {self.log}."


PORT_TAKEN: Final = "another program took Kafka's port between choosing and using it; run `eo broker up` again."
ENDINGS: Final = (
    ("Address already in use", PORT_TAKEN),
    ("Failed to acquire lock", "the store {store} is in use by another Kafka process; stop that one first."),
    ("No space left on device", "the disk of {store} is full; free space there and run `eo broker up` again."),
    (
        "Could not reserve enough space",
        "Java could not get its 384 MB of memory for Kafka; free memory, or set KAFKA_BOOTSTRAP to another machine.",
    ),
    (
        "Permission denied",
        "Kafka may not write to {store}; give this user the right, or set EO_DATA_DIR to another folder ({log}).",
    ),
)


def _cluster_id() -> str:
    """Kafka's form of a random UUID: 16 bytes, URL-safe base64, no padding; "-" must not come first."""
    import base64

    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        continue
    return text
