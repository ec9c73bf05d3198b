"""What the Energy API costs: `python -m tests.bench.bench_gateway [--seconds 20] [--write FILE]`.

A real server process on a free loopback port, held to one core, with 100 nodes x 8 GPUs reporting once a second from a
scripted reader (no broker: its client's own cost is in the demo's figures). Requests come in at fixed times, whatever
the answers do, and each wait counts from the time that was planned, so that a stalled server cannot hide.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from agents.gateway.advise import advise
from agents.gateway.cluster import ClusterState
from agents.gateway.context import Context
from agents.gateway.main import build_app, make_context
from agents.gateway.run import listen
from agents.gateway.settings import GatewaySettings
from models.policy.recommend import Wish
from models.policy.strategies import STRATEGIES
from streams.contract import codec
from streams.contract.topics import APPLIED, DESIRED, FEATURES
from tests.fakes import gateway_rig as fake

NODES, RATE = 100, 200
READS = (
    "/v1/nodes?limit=100",
    "/v1/gpus?limit=100",
    "/v1/gpus?node=node-7",
    "/v1/features/GPU-42-3",
    "/v1/commands?limit=100",
    "/health",
)


class Scripted:
    """Every node once a second, spread over it, and an acknowledgement of each every five seconds."""

    missing: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._stop, self._sent, self._began = threading.Event(), 0, time.time()

    def poll(self, state: ClusterState, timeout_s: float, most: int = 0) -> int:
        self._stop.wait(timeout_s)
        due = int((time.time() - self._began) * NODES) - self._sent
        for _ in range(due):
            node, now = self._sent % NODES, time.time_ns()
            state.fold(FEATURES.name, codec.encode(fake.features(node, now, seq=self._sent)))
            if self._sent // NODES % 5 == node % 5:
                state.fold(DESIRED.name, codec.encode(fake.envelope(node, now)))
                state.fold(APPLIED.name, codec.encode(fake.applied(node, now)))
            self._sent += 1
        return due

    def close(self) -> None:
        self._stop.set()


def context(folder: Path) -> Context:
    settings = GatewaySettings(data_dir=folder, cluster=fake.CLUSTER, rate_per_s=1e6)
    return make_context(
        settings,
        open_reader=lambda *_: Scripted(),
        publish=lambda _: None,
        known_caps=dict,
        look_at_jobs=list,
        look_at_places=dict,
    )


def serve(folder: Path) -> None:
    """The server process; prints its address and a key."""
    import uvicorn

    os.sched_setaffinity(0, {0})
    raise_priority()
    made, opened = context(folder), listen("127.0.0.1", 0)
    _, key = made.keys.add("bench", "read", now_ns=time.time_ns(), expires_ns=None)
    print(json.dumps({"port": opened.getsockname()[1], "key": key}), flush=True)
    config = uvicorn.Config(build_app(made), log_config=None, access_log=False, timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[opened])


def raise_priority() -> bool:
    """On a machine that others share, waiting for a core is theirs, not the server's; needs root."""
    try:
        os.nice(-15)
    except PermissionError:
        return False
    return True


class Loader:
    """Keep-alive connections that each take the next request that is due."""

    def __init__(self, port: int, key: str, *, seconds: float) -> None:
        self.port, self.key, self.total = port, key, int(seconds * RATE)
        self.waits_ms: dict[str, list[float]] = {path: [] for path in READS}
        self.errors = 0
        self._next = 0

    async def run(self, connections: int = 32) -> None:
        self._start = time.perf_counter() + 0.2
        await asyncio.gather(*(self._connection() for _ in range(connections)))

    async def _connection(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (number := self._next) < self.total:
            self._next += 1
            due = self._start + number / RATE
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            path = READS[number % len(READS)]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            self.waits_ms[path].append((time.perf_counter() - due) * 1e3)
            self.errors += not head.startswith(b"HTTP/1.1 200")
        writer.close()


def online(seconds: float) -> dict[str, Any]:
    """Idle cost, then 200 reads a second."""
    with tempfile.TemporaryDirectory(prefix="eo-bench-gateway-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bench_gateway", "--serve", folder], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            said = json.loads(process.stdout.readline())
            time.sleep(8)
            idle = _cpu_share(process.pid, seconds / 2)
            before, began = _cpu_s(process.pid), time.monotonic()
            loader = Loader(said["port"], said["key"], seconds=seconds)
            asyncio.run(loader.run())
            cores = (_cpu_s(process.pid) - before) / (time.monotonic() - began)
        finally:
            process.terminate()
            process.wait(20)
    every = sorted(wait for waits in loader.waits_ms.values() for wait in waits)
    rows = [{"path": path, **_quantiles(sorted(waits))} for path, waits in loader.waits_ms.items()]
    return {"idle_core": idle, "cores": cores, "errors": loader.errors, "all": _quantiles(every), "rows": rows}


def _quantiles(ordered: list[float]) -> dict[str, float]:
    at = {"p50": 0.5, "p99": 0.99}
    return {name: round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 1) for name, q in at.items()} | {
        "max": round(ordered[-1], 1),
        "requests": len(ordered),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _cpu_share(pid: int, seconds: float) -> float:
    before, began = _cpu_s(pid), time.monotonic()
    time.sleep(seconds)
    return (_cpu_s(pid) - before) / (time.monotonic() - began)


def recommending() -> dict[str, dict[str, float]]:
    """CPU and wall of one recommendation for 800 GPUs, 200 engines with different loads."""
    state = ClusterState(fake.CLUSTER, wall_ns=time.time_ns)
    begin = time.time_ns() - 20 * fake.SECOND
    for node in range(NODES):
        state.fold(DESIRED.name, codec.encode(fake.envelope(node, begin)))
        for second in range(20):
            record = fake.features(node, begin + second * fake.SECOND, seq=second)
            state.fold(FEATURES.name, codec.encode(record))
    for number, view in enumerate(state.engines.values()):
        if view.load is not None:
            view.load = view.load.towards(view.load.one_more(), number % 17)
    found: dict[str, dict[str, float]] = {}
    for name, cap in (("balanced", None), ("balanced", 600.0), ("balanced", 300.0), ("aggressive", None)):
        wall, cpu = [], []
        for _ in range(5):
            began, used = time.perf_counter(), time.process_time()
            advise(state, STRATEGIES[name], Wish(cap), now_ns=time.time_ns(), stale_s=60)
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - used)
        label = name if cap is None else f"{name}, at most {cap:g} W"
        found[label] = {"wall_ms": round(max(wall) * 1e3, 1), "cpu_ms": round(statistics.median(cpu) * 1e3, 1)}
    return found


def page(reads: dict[str, Any], advice: dict[str, dict[str, float]], load: float, *, raised: bool) -> str:
    rows = [f"| `{r['path']}` | {r['requests']} | {r['p50']} | {r['p99']} | {r['max']} |" for r in reads["rows"]]
    every = reads["all"]
    lines = [
        "# Energy API",
        "",
        f"Made by `python -m tests.bench.bench_gateway` on {os.cpu_count()} cores ({platform.machine()}), load "
        f"{load:.1f} when it began: other work shared them{', at lower priority' if raised else ''}. SIMULATED data: "
        f"{NODES} nodes x {fake.GPUS} GPUs at 1 Hz.",
        "",
        f"## {RATE} reads a second, the server held to one core",
        "",
        "Requests start at fixed times; a wait counts from the planned time to the last byte, ms.",
        "",
        "| read | requests | p50 | p99 | longest |",
        "|---|---|---|---|---|",
        *rows,
        f"| all | {every['requests']} | {every['p50']} | {every['p99']} | {every['max']} |",
        "",
        f"Errors: {reads['errors']}. CPU of the server meanwhile: {reads['cores'] * 100:.0f} % of a core; idle, with "
        f"all nodes reporting and nobody asking: {reads['idle_core'] * 100:.1f} % (the scripted reader included).",
        "",
        "## One recommendation for 800 GPUs (200 engines)",
        "",
        "| strategy | longest wall ms | CPU ms, median |",
        "|---|---|---|",
        *(f"| {name} | {one['wall_ms']} | {one['cpu_ms']} |" for name, one in advice.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve is not None:
        serve(args.serve)
        return
    load, raised = os.getloadavg()[0], raise_priority()
    text = page(online(args.seconds), recommending(), load, raised=raised)
    print(text)
    if args.write is not None:
        args.write.write_text(text)


if __name__ == "__main__":
    main()
