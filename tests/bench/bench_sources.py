"""What one reading of each source costs an 8-GPU node: `python -m tests.bench.bench_sources [--write FILE] [NAME ...]`.

CPU time of this process and of the programs that it starts, not wall time: what answers an exporter's URL runs in a
process of its own and is not counted. A source is added by one function under `@case`: it yields the source, ready to
be read. A case that cannot run here says why in the table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agents.node.engine_settings import KINDS
from agents.node.sources import registry
from agents.node.sources.base import Source

DATA = Path(__file__).parents[1] / "data"
ROUNDS, ROUND_S = 7, 0.3
GPUS = 8
Making = Callable[[], contextlib.AbstractContextManager[Source]]


class NotHere(Exception):
    """Why a case cannot run on this machine."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row: `every_s` is the source's own pace in the agent (1 s unless its registry line says more)."""

    name: str
    reads: str
    make: Making
    every_s: float


CASES: list[Case] = []


def case(name: str, reads: str) -> Callable[[Callable[[], Iterator[Source]]], None]:
    """Adds a case: a generator function that yields one source and cleans up after it."""

    def add(function: Callable[[], Iterator[Source]]) -> None:
        entry = registry.SOURCES.get(name)
        every_s = 0.5 if name in KINDS else entry.every_s if entry else 1.0
        CASES.append(Case(name, reads, contextlib.contextmanager(function), every_s))

    return add


# --- cases: append yours ---------------------------------------------------------------------------------------------


@case("nvml", "8 GPUs through nvidia-ml-py and the C stand-in of NVML, its own cost included")
def _nvml() -> Iterator[Source]:
    from agents.node.sources.nvml import NvmlSource
    from tests.fakes.nvml.driver import FakeNvml, StandInMissing

    with tempfile.TemporaryDirectory() as folder:
        try:
            fake = FakeNvml(Path(folder), gpus=GPUS)
        except StandInMissing as reason:
            raise NotHere(str(reason)) from reason
        fake.load()
        source = NvmlSource()
        yield source
        source.close()
        fake.unload()


@case("procfs", "this host: CPU, memory, network, control groups")
def _procfs() -> Iterator[Source]:
    from agents.node.sources.procfs import ProcfsSource

    yield ProcfsSource()


@case("dcgm", "dcgm-exporter's text of 8 GPUs with pod labels, 25 families, over HTTP on loopback")
def _dcgm() -> Iterator[Source]:
    from agents.node.sources.dcgm import DcgmSource

    with serving(exporter_text(), "metrics") as url:
        yield DcgmSource(url, stale_s=1e9)


@case("dcgm-native", "8 GPUs, 23 fields through libdcgm's interface and its C stand-in, its own cost included")
def _dcgm_native() -> Iterator[Source]:
    from agents.node.sources.dcgm_native import DcgmNativeSource
    from tests.fakes.dcgm import driver

    try:
        fake = driver.Fake(GPUS)
    except driver.StandInMissing as reason:
        raise NotHere(str(reason)) from reason
    source = DcgmNativeSource(library=fake.path)
    yield source
    source.close()


@case("nvidia-smi", "8 H100s: the text alone, the program itself runs at its vendor's cost")
def _nvidia_smi() -> Iterator[Source]:
    from agents.node.sources.nvidia_smi import NvidiaSmiSource

    yield NvidiaSmiSource(file=str(DATA / "nvidia_smi/k8s_qx-h100.xml"))


@case("rapl", "two sockets: packages, cores, DRAM and the platform, as files that read as the kernel's do")
def _rapl() -> Iterator[Source]:
    from tests.fakes.sysfs import Sysfs

    with tempfile.TemporaryDirectory() as folder:
        tree = Sysfs(Path(folder))
        for socket in (0, 1):
            tree.zone(f"intel-rapl:{socket}", f"package-{socket}", raw_uj=10**9)
            tree.zone(f"intel-rapl:{socket}:0", "core", raw_uj=10**8)
            tree.zone(f"intel-rapl:{socket}:1", "dram", raw_uj=10**8)
        tree.zone("intel-rapl:2", "psys", raw_uj=10**9)
        yield registry.make("rapl", {"root": str(tree.sys)})


@case("ipmi", "a recorded DCMI answer: the text alone, without ipmitool")
def _ipmi() -> Iterator[Source]:
    yield registry.make("ipmi", {"file": str(DATA / "ipmi/dcmi.txt")})


@case("vllm", "vLLM's text of one model, 50 families, over HTTP on loopback; the agent asks twice a second")
def _vllm() -> Iterator[Source]:
    with serving((DATA / "engines/vllm_metrics.txt").read_bytes(), "metrics") as url:
        yield registry.make("vllm", {"url": url})


@case("triton", "Triton's text of 8 models, over HTTP on loopback; the agent asks twice a second")
def _triton() -> Iterator[Source]:
    with serving((DATA / "engines/triton_metrics.txt").read_bytes(), "metrics") as url:
        yield registry.make("triton", {"url": url})


# --- help for cases --------------------------------------------------------------------------------------------------


def exporter_text() -> bytes:
    """What dcgm-exporter publishes of 8 GPUs, as long as the real one's lines are."""
    from agents.node.sources.dcgm_fields import FIELDS
    from tests.fakes.dcgm.driver import TYPICAL

    lines = []
    for field in FIELDS:
        if field.number not in TYPICAL:
            continue
        lines += [f"# HELP {field.names[0]} Field {field.number}.", f"# TYPE {field.names[0]} gauge"]
        lines += [
            f'{field.names[0]}{{gpu="{n}",UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e5{n}",'
            f'pci_bus_id="00000000:0{n}:00.0",device="nvidia{n}",modelName="NVIDIA H100 80GB HBM3",'
            f'Hostname="node-17",DCGM_FI_DRIVER_VERSION="580.105.08",'
            f'container="vllm",namespace="serving",pod="llama-3-70b-{n}"}} {TYPICAL[field.number]}'
            for n in range(GPUS)
        ]
    return ("\n".join(lines) + "\n").encode()


@contextlib.contextmanager
def serving(body: bytes, name: str) -> Iterator[str]:
    """The URL of a file served by a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(body)
        code = (
            "import functools, http.server, sys\n"
            "h = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])\n"
            "h.func.log_message = lambda *a: None\n"
            "s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), h)\n"
            "print(s.server_port, flush=True)\ns.serve_forever()\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/{name}"
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


# --- measuring -------------------------------------------------------------------------------------------------------


def cpu_s() -> float:
    """CPU seconds of this process and of the programs that it has started and seen end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(source: Source) -> tuple[float, float]:
    """(best, median) CPU microseconds per reading."""
    if not source.read(time.time_ns()).says:
        raise NotHere("its reading is empty")
    rounds = []
    for _ in range(ROUNDS):
        began, count, due = cpu_s(), 0, time.monotonic() + ROUND_S
        while time.monotonic() < due or count < 3:
            source.read(time.time_ns())
            count += 1
        rounds.append((cpu_s() - began) / count * 1e6)
    return min(rounds), statistics.median(rounds)


def rows(names: list[str]) -> list[str]:
    """One row of the table per case; the sum of those that ran at the end."""
    lines, total = [], 0.0
    for each in CASES:
        if names and each.name not in names:
            continue
        try:
            with each.make() as source:
                best, median = measure(source)
        except NotHere as reason:
            lines.append(f"| `{each.name}` | {each.reads} | not measured: {reason} | - | {each.every_s:g} | - |")
            continue
        share = median / 1e6 / each.every_s * 100
        total += share
        lines.append(f"| `{each.name}` | {each.reads} | {best:,.0f} | {median:,.0f} | {each.every_s:g} | {share:.3f} |")
        print(lines[-1], file=sys.stderr)
    lines.append(f"| all | of one node at once, which nobody needs | | | | {total:.3f} |")
    return lines


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints, or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", metavar="FILE", help="the page to write")
    parser.add_argument("names", nargs="*", help="only these sources")
    args = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    text = "\n".join(
        [
            "# Sources: what a reading costs",
            "",
            f"Made by `python -m tests.bench.bench_sources` on {os.cpu_count()} cores ({platform.machine()}), load "
            f"{load:.1f} when it began: other work shared them. CPU time, not wall time; what answers is not counted.",
            "Redfish is measured over HTTP in [bmc.md](bmc.md). "
            "Bound: all sources of an 8-GPU node below 2 % of a core at 1 Hz, native DCGM below 1 %.",
            "",
            "| source | reads | CPU us per reading, best | median | every s | % of a core |",
            "|---|---|---|---|---|---|",
            *rows(args.names),
            "",
        ]
    )
    if args.write:
        Path(args.write).write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
