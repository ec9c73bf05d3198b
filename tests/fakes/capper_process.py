"""A real capper process on the C stand-in for NVML, with its own data folder and keys; ended by the pid kept here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import tests.fakes.nvml.client as client
from agents.capper.protocol import SOCKET_NAME
from streams.contract.codec import encode
from streams.contract.records import BrakeColumns, EnvelopeColumns
from streams.contract.signing import Signer, generate
from tests.fakes.capper_rig import columns, command
from tests.fakes.nvml import FakeNvml

OBEY = {"EO_CAPPER_OPT_IN": "1", "EO_CAPPER_MAX_MODE": "on", "EO_CAPPER_MIN_POWER_INTERVAL_S": "0"}
READY_S = 20.0


@contextmanager
def capper_on_nvml(*, gpus: int = 2) -> Iterator[CapperProcess]:
    """A node's capper, not started yet, in a folder of its own. The folder is short because socket paths are."""
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(FakeNvml.or_skip(Path(folder), gpus=gpus)) as nvml,
        CapperProcess(Path(folder), nvml) as made,
    ):
        yield made


class CapperProcess:
    """Starts, kills and restarts `eo capper --node n1 --cluster c1`; `eo` runs any other verb in the same setting.

    As a context it kills at the end what still runs.
    """

    def __init__(self, folder: Path, nvml: FakeNvml) -> None:
        self.folder, self.nvml = folder, nvml
        self.process: subprocess.Popen[str] | None = None
        self.signer: Signer = generate("job-1", folder / "keys" / "actuation.key")
        (folder / "keys" / "keyring").write_text(self.signer.public_line() + "\n")

    def __enter__(self) -> CapperProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    @property
    def socket(self) -> Path:
        return self.folder / "capper" / "n1" / SOCKET_NAME

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EO_")}
        return {**kept, **self.nvml.environment(), "EO_DATA_DIR": str(self.folder), **more}

    def start(self, **more: str) -> CapperProcess:
        """Returns once the socket is there; raises with the process's own words when it ends instead."""
        arguments = [sys.executable, "-m", "agents", "capper", "--node", "n1", "--cluster", "c1"]
        self.process = subprocess.Popen(
            arguments, env=self.environment(**{**OBEY, **more}), stderr=subprocess.PIPE, text=True
        )
        deadline = time.monotonic() + READY_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the capper did not start: {self.end()}")
            time.sleep(0.02)
        return self

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.end()

    def end(self) -> tuple[int, str]:
        """Waits for the process, a kill after 20 s; returns its code and what it said."""
        assert self.process is not None
        try:
            _, said = self.process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, said = self.process.communicate()
        code, self.process = self.process.returncode, None
        self.socket.unlink(missing_ok=True)  # a killed process cannot remove it, and start() waits for a new one
        return code, said

    def terminate(self) -> tuple[int, str]:
        """SIGTERM."""
        assert self.process is not None
        self.process.terminate()
        return self.end()

    def eo(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agents", *arguments],
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def raw(
        self,
        seq: int,
        gpu: EnvelopeColumns | None = None,
        *,
        ttl_ms: int = 30_000,
        brake: BrakeColumns | None = None,
    ) -> bytes:
        """A command for all GPUs, issued now."""
        gpu = gpu or columns(self.nvml.uuids, watts=400.0)
        return encode(self.signer.sign(command(seq, gpu, issued_at_ns=time.time_ns(), ttl_ms=ttl_ms, brake=brake)))

    def limits_seen(self) -> set[float]:
        """The limits in force as an independent client reads them."""
        return {values["limit_w"] for values in self.seen_by_others().values()}

    def seen_by_others(self, *arguments: str) -> dict[str, dict[str, float]]:
        """What a second, independent client of NVML reads; with (uuid, watts) it sets a limit first."""
        done = subprocess.run(
            [sys.executable, client.__file__, *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answer: dict[str, dict[str, float]] = json.loads(done.stdout)
        return answer
