"""The Linux host around the GPUs: CPU, load, memory, network, and CPU time per control group. Needs no privilege.

Paths start at a root that is an argument, so that a recorded tree reads like a live one. A file that is missing or odd
makes its own fields null and nothing else.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from agents.node.sources.base import Probe, Reading
from agents.node.sources.cpu_load import CpuLoad
from streams.contract.records import CgroupColumns, HostReading

log = logging.getLogger(__name__)
MAX_CGROUPS: Final = 64
MAX_DEPTH: Final = 3  # slices, services, containers
_LOOPBACK: Final = "lo"


class ProcfsSource:
    """The host's /proc and /sys/fs/cgroup; quality "measured".

    Args:
        root: where proc/ and sys/ lie.
        max_cgroups: how many control groups at most; the busiest are kept.
    """

    name = "procfs"

    def __init__(self, root: str | Path = "/", *, max_cgroups: int = MAX_CGROUPS) -> None:
        self._proc, self._cgroup = Path(root) / "proc", Path(root) / "sys/fs/cgroup"
        self._max_cgroups = int(max_cgroups)
        self._load = CpuLoad()

    def probe(self) -> Probe:
        if self._lines("stat") is None:
            return Probe(False, f"{self._proc}/stat cannot be read; this source needs Linux with /proc mounted")
        return Probe(True, None, self._capability(bool(self._groups())))

    def read(self, now_ns: int) -> Reading:
        """Everything that can be read now. The first reading has no CPU use: that takes two."""
        memory, network, uptime, load = self._memory(), self._network(), self._first("uptime"), self._first("loadavg")
        groups = self._cgroups()
        host = HostReading(
            cpu_util_ratio=self._load.ratio(self._lines("stat") or ()),
            load1=load,
            uptime_s=uptime,
            mem_used_mb=memory[0],
            mem_total_mb=memory[1],
            net_rx_bytes=network[0],
            net_tx_bytes=network[1],
            cgroup=groups,
        )
        capability = self._capability(groups is not None)
        return Reading(source=self.name, ts_ns=now_ns, quality="measured", capability=capability, host=host)

    def close(self) -> None:
        return None

    def _capability(self, groups: bool) -> tuple[str, ...]:
        return ("host.cpu", "host.memory", "host.network", *(("host.cgroup",) if groups else ()))

    def _lines(self, name: str) -> list[str] | None:
        try:
            return (self._proc / name).read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return None

    def _first(self, name: str) -> float | None:
        """The first number of a one-line file: load of a minute, seconds since boot."""
        try:
            return float((self._lines(name) or [""])[0].split()[0])
        except (IndexError, ValueError):
            return None

    def _memory(self) -> tuple[float | None, float | None]:
        """Used and total, in 10**6 bytes; used = total - available."""
        kib: dict[str, int] = {}
        for line in self._lines("meminfo") or ():
            name, _, rest = line.partition(":")
            if name in {"MemTotal", "MemAvailable"} and rest.split():
                kib[name] = int(rest.split()[0])
        total, available = kib.get("MemTotal"), kib.get("MemAvailable")
        used = None if total is None or available is None else (total - available) * 1024 / 1e6
        return used, None if total is None else total * 1024 / 1e6

    def _network(self) -> tuple[int | None, int | None]:
        """Bytes received and sent over all interfaces but the loopback."""
        received, sent, seen = 0, 0, False
        for line in (self._lines("net/dev") or ())[2:]:
            name, _, rest = line.partition(":")
            words = rest.split()
            if name.strip() == _LOOPBACK or len(words) < 9:
                continue
            received, sent, seen = received + int(words[0]), sent + int(words[8]), True
        return (received, sent) if seen else (None, None)

    # --- control groups ----------------------------------------------------------------------------------------

    def _groups(self) -> dict[str, int]:
        """CPU microseconds by path: cgroup v2 (cpu.stat), else v1 (cpuacct.usage, nanoseconds)."""
        if (self._cgroup / "cgroup.controllers").exists():
            return self._walk(self._cgroup, "cpu.stat", _usage_v2)
        unified, accounting = self._cgroup / "unified", self._cgroup / "cpuacct"
        if (accounting / "cpuacct.usage").exists():
            return self._walk(accounting, "cpuacct.usage", lambda text: int(text) // 1000)
        return self._walk(unified, "cpu.stat", _usage_v2) if unified.exists() else {}

    def _walk(self, top: Path, name: str, parse: object) -> dict[str, int]:
        assert callable(parse)
        found: dict[str, int] = {}
        level = [top]
        for _ in range(MAX_DEPTH):
            level = [child for folder in level for child in _folders(folder)]
            for folder in level:
                try:
                    found["/" + folder.relative_to(top).as_posix()] = parse((folder / name).read_text())
                except (OSError, ValueError, IndexError):
                    continue  # the group ended meanwhile, or does not account CPU time
        return found

    def _cgroups(self) -> CgroupColumns | None:
        groups = self._groups()
        if not groups:
            return None
        busiest = sorted(groups, key=lambda path: (-groups[path], path))[: self._max_cgroups]
        kept = sorted(busiest)
        return CgroupColumns(path=tuple(kept), cpu_us=tuple(groups[path] for path in kept))


def _usage_v2(text: str) -> int:
    word, value = text.splitlines()[0].split()
    if word != "usage_usec":
        raise ValueError(f"cpu.stat begins with {word!r}, not usage_usec")
    return int(value)


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
